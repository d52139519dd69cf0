"""A pool of like Ray actors: placed, waited for by name, and replaced when they die.

Invariants: every wait has a deadline, and what it raises names the pool, the worker and its node; a call that was under
way on a worker that died is made again on another, so that no group is lost; `close` leaves no actor behind.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from dermo_ray.config.pools import PoolSettings

_MAX_RESTARTS = 3
"""Deaths after which a pool gives up: a worker that keeps dying has a cause that starting it again won't cure."""


@dataclass
class Worker:
    """One actor, what it is called in messages, and how many calls it is working on."""

    name: str
    actor: ActorHandle[Any]
    running: int = 0
    lost: bool = False


class PoolError(RuntimeError):
    """A pool could not do its work; the message names pool, worker, node and what was waited for."""


class Pool:
    """`settings.workers` actors of `actor_class`, each built with `arguments` and ready once its `start` returns.

    `start_arguments` are those of the moment: a replacement starts with what its pool has been told since.
    """

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        actor_class: type,
        arguments: tuple[Any, ...],
        environment: dict[str, str],
        start_timeout: float,
    ) -> None:
        self.name = name
        self.settings = settings
        self._remote: Any = ray.remote(actor_class).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            accelerator_type=settings.accelerator_type,
            label_selector=settings.node_labels or None,
            runtime_env={"env_vars": environment},
        )
        self._arguments = arguments
        self._start_timeout = start_timeout
        self.start_arguments: tuple[Any, ...] = ()
        self._count = 0
        self._restarts = 0
        self._change = asyncio.Condition()
        self._actors: list[ActorHandle[Any]] = []
        """Every actor that was made, those included that never became ready."""
        self.workers: list[Worker] = []

    async def open(self) -> None:
        """Start all workers side by side."""
        self.workers = list(await asyncio.gather(*(self._new_worker() for _ in range(self.settings.workers))))

    async def call(self, method: str, *arguments: Any, timeout: float) -> Any:
        """Call `method` on the worker with the least to do; on another one if that worker dies meanwhile."""
        while True:
            async with self._change:
                await self._change.wait_for(lambda: any(not worker.lost for worker in self.workers))
                worker = min((w for w in self.workers if not w.lost), key=lambda w: w.running)
            worker.running += 1
            try:
                return await self._ask(worker, method, arguments, timeout)
            except RayActorError as death:
                await self._replace(worker, death)
            finally:
                worker.running -= 1

    async def broadcast(self, method: str, *arguments: Any, timeout: float) -> list[Any]:
        """Call `method` on every worker, replacements still starting included; answers in the workers' order."""
        places = range(len(self.workers))
        return list(await asyncio.gather(*(self._ask_at(place, method, arguments, timeout) for place in places)))

    async def close(self, farewell: str | None = None, timeout: float = 30) -> None:
        """End all workers, after calling `farewell` on those that still answer."""
        for worker in self.workers:
            if farewell is not None and not worker.lost:
                await asyncio.wait([asyncio.ensure_future(_future(worker.actor, farewell, ()))], timeout=timeout)
        for actor in self._actors:
            ray.kill(actor)
        self.workers, self._actors = [], []

    async def _ask(self, worker: Worker, method: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        try:
            return await asyncio.wait_for(_future(worker.actor, method, arguments), timeout)
        except TimeoutError:
            raise PoolError(f"{worker.name} did not answer {method} within {timeout:g} s") from None

    async def _ask_at(self, place: int, method: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        """Ask the worker at `place`, or the one that takes its place if it dies."""
        while True:
            async with self._change:
                await self._change.wait_for(lambda: not self.workers[place].lost)
                worker = self.workers[place]
            try:
                return await self._ask(worker, method, arguments, timeout)
            except RayActorError as death:
                await self._replace(worker, death)

    async def _new_worker(self) -> Worker:
        self._count += 1
        name = f"{self.name} worker {self._count}"
        actor: ActorHandle[Any] = self._remote.remote(*self._arguments)
        self._actors.append(actor)
        try:
            await asyncio.wait_for(_future(actor, "start", self.start_arguments), self._start_timeout)
        except TimeoutError:
            ray.kill(actor)
            raise PoolError(f"{name} was not ready within {self._start_timeout:g} s") from None
        return Worker(name, actor)

    async def _replace(self, worker: Worker, death: RayActorError) -> None:
        """Put a new worker in the place of a dead one; the first of the calls that found it dead does."""
        if worker.lost:
            return
        worker.lost = True
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise PoolError(f"{worker.name} died, as did {_MAX_RESTARTS} before it: {death}") from death
        print(f"{worker.name} died ({' '.join(str(death).split())[:200]}); starting another", flush=True)
        replacement = await self._new_worker()
        async with self._change:
            self.workers[self.workers.index(worker)] = replacement
            self._change.notify_all()


async def _future(actor: ActorHandle, method: str, arguments: tuple[Any, ...]) -> Any:
    return await getattr(actor, method).remote(*arguments)
