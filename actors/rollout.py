"""The rollout worker: one engine in one Ray actor, sampling groups.

Invariant: all completions of a group come from one policy version, the newest that was loaded when its request began.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from actors.adapters import Adapter
from actors.environment import threads, worker_environment
from actors.hosting import last_line
from actors.messages import Group, Prompt, Sampling
from actors.pool import Pool, ray_pool
from dermo_ray.config.mavic import RolloutSettings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings

if TYPE_CHECKING:
    from actors.engine import Engine


class RolloutWorker:
    """A Ray actor's class; its methods run side by side on the actor's event loop."""

    def __init__(
        self,
        model: ModelSettings,
        engine: EngineSettings,
        lora_rank: int | None,
        data: Path,
        on_gpu: bool,
        threads: int,
    ) -> None:
        self._arguments = (model, engine, lora_rank)
        self._on_gpu, self._threads = on_gpu, threads
        self._data = data
        self._engine: Engine | None = None

    async def start(self, adapter: Adapter | None = None) -> None:
        """Start the engine and load the adapter that the others have."""
        from actors.engine import Engine  # here, so that a driver can describe this actor without loading vLLM

        self._engine = Engine.start(*self._arguments, on_gpu=self._on_gpu, threads=self._threads)
        if adapter is not None:
            await self._engine.load(adapter)

    async def load(self, adapter: Adapter) -> str:
        """Load a newer adapter; returns its checksum as this worker found it."""
        async with self._going_with_its_engine():
            return await self.engine.load(adapter)

    async def sample(self, prompt: Prompt, sampling: Sampling, adapted: bool = True) -> Group:
        """Sample the group of one prompt, by the newest policy version or, unless `adapted`, by the base model."""
        version = self.engine.version if adapted else None
        with Image.open(self._data / prompt.record.image) as file:
            image = file.convert("RGB")
        async with self._going_with_its_engine():
            prompt_ids, completions = await self.engine.generate(prompt.record.prompt, [image], sampling, version)
        return Group(prompt, version or 0, prompt_ids, completions)

    async def close(self) -> None:
        """Stop the engine's processes; the actor can be killed afterwards."""
        if self._engine is not None:
            self._engine.close()

    @asynccontextmanager
    async def _going_with_its_engine(self) -> AsyncIterator[None]:
        """An engine is a process of its own. Where it is dead this worker ends too, for its pool to start another."""
        try:
            yield
        except Exception:
            try:
                await self.engine.check_health()
            except Exception as dead:
                print(f"the engine is dead: {last_line(dead)}", file=sys.stderr, flush=True)
                os._exit(1)
            raise

    @property
    def engine(self) -> Engine:
        """The engine. Raises `RuntimeError` before `start`."""
        if self._engine is None:
            raise RuntimeError("the rollout worker was not started")
        return self._engine


class Rollouts:
    """The rollout pool as the run controller sees it."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self.pool, self._timeout = pool, timeout

    async def sample(self, prompt: Prompt, sampling: Sampling) -> Group:
        """The group of one prompt, by the newest policy version that was loaded when its request began."""
        group: Group = await self.pool.call("sample", prompt, sampling, timeout=self._timeout)
        return group

    async def load(self, adapter: Adapter) -> None:
        """Returns once every engine that takes requests has proved that it loaded `adapter`; later ones do so first."""
        await self.pool.tell("load", adapter, timeout=self._timeout, answer=adapter.checksum)


def rollout_pool(settings: RolloutSettings, model: ModelSettings, lora_rank: int | None, data: Path) -> Pool:
    """The pool of engines that answer prompts of the prepared folder `data`, not yet open; its work is tokens."""
    return ray_pool(
        "rollout",
        settings,
        RolloutWorker,
        (model, settings.engine, lora_rank, data, settings.on_gpu, threads(settings)),
        worker_environment(settings),
        start_timeout=settings.engine.start_timeout,
        slots=settings.groups_per_worker,
        measure=_tokens,
        unit="tokens",
        farewell="close",
    )


def _tokens(group: Group) -> float:
    return float(sum(len(completion.token_ids) for completion in group.completions))
