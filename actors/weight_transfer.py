"""The learners' end of vLLM's weight transfer: whole weights go from the learners' GPUs to the engines' over NCCL.

This is the one place on the learners' side that touches it. Rank 0 sends; the others take part in gathering what it
sends. The engines are driven through their rollout workers, all at once and with a deadline. The interface is vLLM
0.32's: a trainer built by `WeightTransferTrainerFactory` (https://docs.vllm.ai, "Weight Transfer"). Nobody has run this
on GPUs yet; its tests stand in for NCCL.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from actors.hosting import last_line
from actors.whole_weights import WeightSource


class TransferError(RuntimeError):
    """A transfer broke off; the message names the rollout worker at whose engine."""


@dataclass(frozen=True)
class Engines:
    """The engines that weights are sent to."""

    workers: Mapping[str, Any]
    """Handles of the rollout workers by name, one engine each."""
    ranks_per_engine: int
    """GPUs over which each engine is cut."""
    timeout: float
    """Seconds within which each step of a transfer must end."""

    @property
    def ranks(self) -> int:
        """GPUs that receive."""
        return len(self.workers) * self.ranks_per_engine

    def ask(self, method: str, arguments_of: Callable[[int], tuple[Any, ...]]) -> None:
        """Call `method` on all workers at once, on the i-th with `arguments_of(i)`.

        Raises `TransferError`, which names the first worker that fails, or those that are late.
        """
        names = {
            getattr(worker, method).remote(*arguments_of(number)): name
            for number, (name, worker) in enumerate(self.workers.items())
        }
        missing, deadline = list(names), time.monotonic() + self.timeout
        while missing:
            done, missing = ray.wait(missing, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                late = ", ".join(names[call] for call in missing)
                raise TransferError(f"{late} did not answer {method} within {self.timeout:g} s")
            try:
                ray.get(done)
            except RayError as error:
                raise TransferError(f"{names[done[0]]} failed in {method}: {last_line(error)}") from error


class Control:
    """What vLLM's sender asks of the engines: the four methods of its `VLLMWeightSyncClient`."""

    def __init__(self, engines: Engines, source: WeightSource) -> None:
        self._engines, self._source = engines, source
        self.version = 0
        """The policy version that is being sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the group, at ranks of its own: vLLM counts from the same offset in each."""
        offset, step = init_info["rank_offset"], self._engines.ranks_per_engine
        self._engines.ask("join_transfer", lambda number: ({**init_info, "rank_offset": offset + number * step},))

    def start_weight_update(self) -> None:
        """Let every engine hold its requests."""
        self._engines.ask("begin_transfer", lambda number: ())

    def update_weights(self, update_info: Any) -> None:
        """Let every engine receive what is announced; returns when all of them have."""
        self._engines.ask("receive", lambda number: (update_info,))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Let every engine prove what it received and go on; vLLM's sender leaves `weight_version` out."""
        self._engines.ask("end_transfer", lambda number: (self.version, self._source.fingerprint))


class Sender:
    """One learner rank's part in sending; every rank makes one and calls it."""

    def __init__(self, rank: int, engines: Engines, source: WeightSource, address: str, port: int) -> None:
        """Meet the engines at `address` and `port` of rank 0's node."""
        self._control = Control(engines, source)
        info = NCCLTrainerInitInfo(address, port, world_size=1 + engines.ranks, rank=rank)
        self._trainer = WeightTransferTrainerFactory.trainer_init(info, client=self._control, source=source)  # type: ignore[arg-type]

    def send(self, version: int) -> None:
        """Make the engines go on with the learners' weights as policy `version`."""
        self._control.version = version
        self._trainer.send_weights()

    def close(self) -> None:
        """Leave the group."""
        self._trainer.shutdown()
