"""The learners' weights as wholes, whatever ZeRO stage cuts them up: to be written, or to be sent to the engines.

Invariant: every rank goes through the same weights in the same order, or the others would wait for ever. At most a
bucket of them is whole on a device at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from actors.deepspeed_engine import ShardedTrainer
from dermo_ray.models.fingerprint import fingerprint

BUCKET = 1 << 30
"""Bytes that are whole at once while weights are sent."""


def gathered_weights(trainer: ShardedTrainer, policy: nn.Module) -> dict[str, Tensor]:
    """What `save_pretrained` is to write, in the memory of rank 0, of an adapter alone where there is one.

    Other ranks get an empty dict; all must call it.
    """
    only_adapter = isinstance(policy, PeftModel)
    names: dict[Tensor, list[str]] = {}  # a tied weight has several, and must stay one tensor
    for name, weight in policy.state_dict(keep_vars=True).items():
        if weight.requires_grad or not only_adapter:
            names.setdefault(weight, []).append(name)
    weights: dict[str, Tensor] = {}
    for weight, its_names in names.items():
        with trainer.whole([weight]):
            if trainer.rank == 0:
                weights |= dict.fromkeys(its_names, weight.detach().to("cpu", copy=True))
    return weights


@dataclass(frozen=True)
class Announced:
    """A weight as vLLM wants it announced before it is sent: `vllm.distributed.weight_transfer.base.ParamMeta`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class WeightSource:
    """What vLLM's weight transfer sends: its `WeightSource` for parameters that DeepSpeed may have cut up.

    vLLM's own `ModuleSource` would send the empty tensors that ZeRO-3 leaves behind. Announcing gathers nothing: under
    ZeRO-3 a parameter keeps its whole shape in `ds_shape`. Going through the source is a collective of all ranks, and
    leaves the fingerprint of what was sent in `fingerprint`.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        whole: Callable[[Iterable[Tensor]], AbstractContextManager[Any]],
        bucket: int = BUCKET,
    ) -> None:
        """`parameters` by the names they have in a checkpoint; within `whole(some)` these are whole on every rank."""
        self._parameters = list(parameters)
        self._whole = whole
        self._bucket = bucket
        self.fingerprint = 0

    def metadata(self) -> list[Announced]:
        """Each weight's name, type and whole shape, in the order in which they come."""
        return [Announced(name, p.dtype, whole_shape(p)) for name, p in self._parameters]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight with its name, whole, and still good when the next one has come."""
        self.fingerprint = 0
        for bucket in self.buckets():
            with self._whole([parameter for _, parameter in bucket]):
                # copies: vLLM packs several into one message, and outside this block ZeRO-3 takes its memory back
                copies = [(name, parameter.detach().clone()) for name, parameter in bucket]
            for name, copy in copies:
                self.fingerprint = (self.fingerprint + fingerprint([copy])) % 2**64
                yield name, copy

    def buckets(self) -> Iterator[Sequence[tuple[str, Tensor]]]:
        """Runs of weights of at most `bucket` bytes; a larger one stands alone."""
        run: list[tuple[str, Tensor]] = []
        size = 0
        for name, parameter in self._parameters:
            weighs = parameter.element_size() * torch.Size(whole_shape(parameter)).numel()
            if run and size + weighs > self._bucket:
                yield run
                run, size = [], 0
            run.append((name, parameter))
            size += weighs
        if run:
            yield run


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a parameter when it is whole."""
    return tuple(cast(Any, parameter).ds_shape if hasattr(parameter, "ds_shape") else parameter.shape)
