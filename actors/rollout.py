"""The rollout worker: one engine in one Ray actor, sampling groups.

Invariant: all completions of a group begin with one policy version, the newest that was loaded when its request began,
and keep it unless the whole model is replaced under them; each token knows its version.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.adapters import Published, Sent
from actors.crew import News
from actors.engine_process import start_engine
from actors.environment import threads, worker_environment
from actors.hosting import RayHost, end_process, last_line
from actors.images import read_images
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
        receives: bool = False,
    ) -> None:
        self._arguments = (model, engine, lora_rank)
        self._on_gpu, self._threads, self._receives = on_gpu, threads, receives
        self._data = data
        self._engine: Engine | None = None
        self._receiving = False
        """Whether a transfer began that has not ended."""

    async def start(self, weights: Published | None = None) -> None:
        """Start the engine and load the weights that the others have."""
        self._engine = start_engine(
            *self._arguments, on_gpu=self._on_gpu, threads=self._threads, receives=self._receives
        )
        if weights is not None:
            await self._engine.load(weights)

    async def load(self, weights: Published) -> str:
        """Load newer weights; returns their checksum as this worker found it.

        An engine in which a transfer broke off is in no state for that: the worker ends, for its pool to start another.
        """
        if self._receiving:
            end_process("a transfer of weights to its engine broke off")
        async with self._going_with_its_engine():
            return await self.engine.load(weights)

    async def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Meet the learners that send weights."""
        await self.engine.join_transfer(init_info)

    async def begin_transfer(self) -> None:
        """Hold all requests until `end_transfer`."""
        self._receiving = True
        await self.engine.begin_transfer()

    async def receive(self, update_info: dict[str, Any]) -> None:
        """Take the weights that the learners send meanwhile."""
        await self.engine.receive(update_info)

    async def end_transfer(self, version: int, fingerprint: int) -> None:
        """Check what was received and go on with it as policy `version`."""
        await self.engine.end_transfer(version, fingerprint)
        self._receiving = False

    def version(self) -> int | None:
        """The policy version that requests get now."""
        return self.engine.version

    async def sample(
        self, prompt: Prompt, sampling: Sampling, adapted: bool = True, adapter: Published | None = None
    ) -> Group:
        """Sample the group of one prompt, by the newest policy version or, unless `adapted`, by the base model.

        With `adapter`, by that one, be it newer or older.
        """
        version = self.engine.version if adapted else None
        if adapter is not None:
            version = adapter.version
        images = read_images(prompt, self._data)
        async with self._going_with_its_engine():
            if adapter is not None:
                await self.engine.keep(adapter)
            prompt_ids, completions = await self.engine.generate(prompt.record.prompt, images, sampling, version)
        oldest = min((v for c in completions for v in c.versions), default=version or 0)
        return Group(prompt, oldest, prompt_ids, completions)

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
                end_process(f"the engine is dead: {last_line(dead)}")
            raise

    @property
    def engine(self) -> Engine:
        """The engine. Raises `RuntimeError` before `start`."""
        if self._engine is None:
            raise RuntimeError("the rollout worker was not started")
        return self._engine


class Rollouts:
    """The rollout pool as the run controller sees it."""

    def __init__(self, pool: Pool, timeout: float, write: Callable[[], Awaitable[Published]] | None = None) -> None:
        """`write` has the learners write what they else send, for engines that come between two transfers."""
        self.pool, self._timeout, self._write = pool, timeout, write

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        """The group of one prompt, by `adapter` or else the newest version that was loaded when its request began."""
        group: Group = await self.pool.call("sample", prompt, sampling, True, adapter, timeout=self._timeout)
        return group

    async def load(self, weights: Published | Sent) -> None:
        """Returns once every engine that takes requests has proved that it has `weights`; later ones do so first.

        An engine that can't is replaced; the second in a row ends the run. Weights that were sent are there already,
        and are written for an engine that comes later.
        """
        if isinstance(weights, Sent):
            there = News("version", (), self._timeout, weights.version)
            await self.pool.tell(there, newcomers=self._written if self._write is not None else None)
        else:
            await self.pool.tell(self._loading(weights))

    def actors(self) -> dict[str, Any]:
        """The Ray actors of the workers that take calls, by the workers' names and places."""
        ready = [worker for worker in self.pool.workers if worker.state == "ready"]
        return {str(worker): worker.host.actor for worker in ready if isinstance(worker.host, RayHost)}

    async def _written(self) -> News:
        assert self._write is not None
        return self._loading(await self._write())

    def _loading(self, weights: Published) -> News:
        return News("load", (weights,), self._timeout, weights.checksum)


def rollout_pool(
    settings: RolloutSettings, model: ModelSettings, lora_rank: int | None, data: Path, receives: bool = False
) -> Pool:
    """The pool of engines that answer prompts of the prepared folder `data`, not yet open; its work is tokens.

    With `receives`, learners may send them whole weights.
    """
    return ray_pool(
        "rollout",
        settings,
        RolloutWorker,
        (model, settings.engine, lora_rank, data, settings.on_gpu, threads(settings), receives),
        worker_environment(settings),
        start_timeout=settings.engine.start_timeout,
        slots=settings.groups_per_worker,
        measure=_tokens,
        unit="tokens",
        farewell="close",
    )


def _tokens(group: Group) -> float:
    return float(sum(len(completion.token_ids) for completion in group.completions))
