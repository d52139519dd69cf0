"""The rollout worker: one engine in one Ray actor, sampling groups.

Invariant: all completions of a group come from one policy version, the newest that was loaded when its request began.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.adapters import Adapter
from actors.environment import threads, worker_environment
from actors.images import read_images
from actors.messages import Group, Prompt, Sampling
from actors.pool import Pool
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
        return await self.engine.load(adapter)

    async def sample(self, prompt: Prompt, sampling: Sampling, adapted: bool = True) -> Group:
        """Sample the group of one prompt, by the newest policy version or, unless `adapted`, by the base model."""
        version = self.engine.version if adapted else None
        images = read_images(prompt, self._data)
        prompt_ids, completions = await self.engine.generate(prompt.record.prompt, images, sampling, version)
        return Group(prompt, version or 0, prompt_ids, completions)

    async def close(self) -> None:
        """Stop the engine's processes; the actor can be killed afterwards."""
        if self._engine is not None:
            self._engine.close()

    @property
    def engine(self) -> Engine:
        """The engine. Raises `RuntimeError` before `start`."""
        if self._engine is None:
            raise RuntimeError("the rollout worker was not started")
        return self._engine


def rollout_pool(settings: RolloutSettings, model: ModelSettings, lora_rank: int | None, data: Path) -> Pool:
    """The pool of engines that answer prompts of the prepared folder `data`, not yet open."""
    return Pool(
        "rollout",
        settings,
        RolloutWorker,
        (model, settings.engine, lora_rank, data, settings.on_gpu, threads(settings)),
        worker_environment(settings),
        start_timeout=settings.engine.start_timeout,
    )
