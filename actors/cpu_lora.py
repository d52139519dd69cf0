"""LoRA on vLLM's CPU worker as dense products, one for each adapter in the batch.

vLLM 0.32's own CPU path copies the adapter's matrices once for every token, which costs many times the model itself
where hundreds of sequences share an adapter, and gives a token without an adapter the last slot's. A batch of rollouts
has one adapter, or two while an update is under way. The engine loads this module in its worker process.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_NO_ADAPTER = -1
"""The slot of a token whose request has no adapter."""


class DenseLora:
    """vLLM's hook for code in its workers; importing it is all that is needed."""


class Shares(NamedTuple):
    """Which rows of a batch an adapter answers."""

    slot: int
    rows: Tensor | None
    """bool [tokens]; None where it answers them all."""


def shares(slots: Tensor) -> list[Shares]:
    """The adapters of a batch, by the slot of each of its rows [tokens]; rows without an adapter have no share."""
    found = torch.unique(slots).tolist()
    if len(found) == 1:
        return [] if found == [_NO_ADAPTER] else [Shares(found[0], None)]
    return [Shares(slot, slots == slot) for slot in found if slot != _NO_ADAPTER]


def update_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
    """What vLLM tells about every batch; the shares are found once for all layers."""
    PunicaWrapperBase.update_metadata(self, *args, **kwargs)
    self.token_shares = shares(self.token_lora_indices)
    self.sampler_shares = shares(self.sampler_indices)


def add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **kwargs: Any,
) -> None:
    """Add scale * x A^T B^T of each token's adapter to `y`, slice by slice of the output.

    Shapes: y [..., sum(output_slices)], x [..., inputs], A [slots, 1, rank, inputs], B [slots, 1, slice, rank].
    """
    outputs = y.view(-1, y.shape[-1])
    start = 0
    for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
        _add(outputs[:, start : start + size], x.view(-1, x.shape[-1]), a, b, scale, self.token_shares)
        start += size


def add_lora_logits(
    self: Any, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
) -> None:
    """The same for the logits, of which a batch has one row for each sampled token."""
    _add(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), lora_a_stacked, lora_b_stacked, scale, self.sampler_shares)


def _add(outputs: Tensor, inputs: Tensor, a: Tensor, b: Tensor, scale: float, dealt: list[Shares]) -> None:
    for slot, rows in dealt:
        change = ((inputs if rows is None else inputs[rows]) @ a[slot, 0].T) @ b[slot, 0].T
        if rows is None:
            outputs.add_(change, alpha=scale)
        else:
            outputs[rows] += change * scale


PunicaWrapperCPU.token_shares = []  # type: ignore[attr-defined]  # until vLLM tells about a batch
PunicaWrapperCPU.sampler_shares = []  # type: ignore[attr-defined]
PunicaWrapperCPU.update_metadata = update_metadata  # type: ignore[method-assign]
PunicaWrapperCPU.add_lora_linear = add_lora_linear  # type: ignore[method-assign]
PunicaWrapperCPU.add_lora_logits = add_lora_logits  # type: ignore[method-assign]
