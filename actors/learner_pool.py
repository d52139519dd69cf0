"""The learner pool: DeepSpeed ranks that only work together.

Invariant: every call goes to all ranks at once, with a deadline; what it raises names the rank that failed or is late.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.adapters import Adapter
from actors.environment import worker_environment
from actors.messages import ScoredGroup, TrainingGroup
from actors.pool import PoolError
from dermo_ray.config.mavic import MavicConfig


class LearnerPool:
    """`config.learner.workers` ranks on their own resources."""

    def __init__(self, config: MavicConfig) -> None:
        self._config = config
        self._ranks: list[Any] = []

    async def open(self, learner: Path | None = None) -> None:
        """Start the ranks, from the shards in `learner` where a run goes on."""
        # imported by the actors alone: the driver needs neither DeepSpeed nor its start-up time
        from actors.learner import LearnerRank

        settings = self._config.learner
        remote = ray.remote(LearnerRank).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            accelerator_type=settings.accelerator_type,
            label_selector=settings.node_labels or None,
            runtime_env={"env_vars": worker_environment(settings)},
        )
        self._ranks = [remote.remote(self._config, rank) for rank in range(settings.workers)]
        address, port = await _answer(self._ranks[0], "endpoint", ())
        await self._all("start", address, port, learner)

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """One update from `batch`; the metrics, which are the same on every rank."""
        shared = ray.put(list(batch))  # sent once, however many ranks read it
        metrics: dict[str, float] = (await self._all("update", shared, step))[0]
        return metrics

    async def divergences(self, batch: Sequence[ScoredGroup]) -> list[float]:
        """How far each completion of `batch` takes the policy from itself without its adapter, in nats."""
        values: list[float] = (await self._all("divergences", ray.put(list(batch))))[0]
        return values

    async def publish(self, folder: Path, version: int) -> Adapter:
        """Publish the adapter as policy version `version`."""
        adapter: Adapter = (await self._all("publish", folder, version))[0]
        return adapter

    async def save(self, folder: Path) -> None:
        """Write the ranks' part of a checkpoint into `folder`."""
        await self._all("save", folder)

    def close(self) -> None:
        """End all ranks."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` on every rank; the first failure counts, since it leaves the others waiting in a collective."""
        timeout = self._config.learner.timeout
        names = {}
        for number, rank in enumerate(self._ranks):
            names[asyncio.ensure_future(_answer(rank, method, arguments))] = number
        done, late = await asyncio.wait(names, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in done if task.exception() is not None]
        for task in late:
            task.cancel()
        if failed:
            cause = failed[0].exception()
            raise PoolError(f"learner rank {names[failed[0]]} failed in {method}: {last_line(cause)}") from cause
        if late:
            ranks = ", ".join(str(names[task]) for task in late)
            raise PoolError(f"learner rank {ranks} did not answer {method} within {timeout:.0f} s")
        return [task.result() for task in names]


async def _answer(rank: ActorHandle, method: str, arguments: tuple[Any, ...]) -> Any:
    return await getattr(rank, method).remote(*arguments)


def last_line(error: BaseException | None) -> str:
    """What went wrong, without the traceback that Ray puts before it."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
