"""How a live run is looked at and scaled from elsewhere: a desk where commands are left and the run's state lies.

Invariants: the desk is a Ray actor that goes with the driver, so a run that is dead has none; the driver alone acts on
its pools, and confirms each command.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.autoscale import Autoscaler
from actors.crew import News
from actors.hosting import Location
from actors.learner_pool import LearnerPool
from actors.pool import Pool, Worker
from dermo_ray.config.pools import AutoscaleSettings, ElasticPoolSettings

NAMESPACE = "dermo_ray"
ADDRESS = "ray_address"
"""The file of the run directory that names the Ray cluster of a live run and its desk, a line each."""
_PERIOD = 1.0
"""Seconds between two looks at the desk."""
_DEADLINE = 10.0
"""Seconds within which the desk must answer its driver."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerState:
    """One worker of a pool, or one learner rank."""

    name: str
    state: str
    node: str
    pid: int | None
    version: int | None
    """The policy version that it samples from."""
    running: int
    done: int
    rate: float
    """Work a second, in the pool's own unit."""


@dataclass(frozen=True)
class PoolState:
    """One pool."""

    name: str
    target: int
    queue: int
    """Calls that wait for a worker with room."""
    unit: str
    scales_itself: bool
    workers: tuple[WorkerState, ...]


@dataclass(frozen=True)
class RunState:
    """A live run as its driver sees it."""

    version: int
    steps: int
    pools: tuple[PoolState, ...]


@dataclass(frozen=True)
class Command:
    """Have `workers` workers in a pool; with `now` those too many are taken away at once."""

    pool: str
    workers: int
    now: bool


class Desk:
    """A Ray actor's class."""

    def __init__(self) -> None:
        self._state: RunState | None = None
        self._updated = 0.0
        self._commands: list[Command] = []
        self._taken = 0
        """Commands that the driver was given."""
        self._done = 0
        """Those that it had carried out when it left the state."""

    def exchange(self, state: RunState) -> list[Command]:
        """The driver leaves the state, which tells of all commands that it took before, and takes those since."""
        self._state, self._updated, self._done = state, time.monotonic(), self._taken
        commands, self._commands = self._commands, []
        self._taken += len(commands)
        return commands

    def order(self, command: Command) -> int:
        """Leave a command; it is carried out once `done` of `look` reaches the number that is returned."""
        self._commands.append(command)
        return self._taken + len(self._commands)

    def look(self) -> tuple[RunState | None, float, int]:
        """The state, how many seconds ago the driver left it, and how many commands were done by then."""
        return self._state, time.monotonic() - self._updated, self._done


def desk_name(run: Path) -> str:
    """The name of a run's desk within `NAMESPACE`."""
    return f"desk of {run}"


class Steering:
    """The driver's end: carries out commands, and scales pools that scale themselves."""

    def __init__(
        self, run: Path, steps: int, pools: Mapping[str, Pool], learner: LearnerPool, version: Callable[[], int]
    ) -> None:
        self._run, self._steps, self._pools, self._learner, self._version = run, steps, pools, learner, version
        self._desk: Any = None
        self._autoscalers = {
            name: Autoscaler(bounds) for name, pool in pools.items() if (bounds := _bounds(pool)) is not None
        }

    async def run(self) -> None:
        """Goes on until it is cancelled. A desk that was lost is set up again."""
        address = self._run / ADDRESS
        address.write_text(f"{ray.get_runtime_context().gcs_address}\n{desk_name(self._run)}\n")
        try:
            while True:
                self._autoscale()
                try:
                    async with asyncio.timeout(_DEADLINE):
                        await self._exchange()
                except (RayError, TimeoutError, ValueError) as error:  # a name that the cluster has not yet let go of
                    _log.info("the desk of %s is set up anew: %s", self._run, error)
                    self._desk = None
                await asyncio.sleep(_PERIOD)
        finally:
            address.unlink(missing_ok=True)
            if self._desk is not None:
                ray.kill(self._desk)

    def state(self) -> RunState:
        """The run as it is now."""
        pools = [_pool_state(name, pool) for name, pool in self._pools.items()]
        return RunState(self._version(), self._steps, (*pools, _learner_state(self._learner)))

    async def _exchange(self) -> None:
        if self._desk is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            remote: Any = ray.remote(Desk)
            self._desk = remote.options(
                name=desk_name(self._run),
                namespace=NAMESPACE,
                get_if_exists=True,
                num_cpus=0,
                scheduling_strategy=here,
            ).remote()
        for command in await self._desk.exchange.remote(self.state()):
            if command.pool in self._pools:  # jobs.scale refuses others; whatever is asked, the run goes on
                self._scale(command.pool, command.workers, command.now)

    def _autoscale(self) -> None:
        for name, autoscaler in self._autoscalers.items():
            pool = self._pools[name]
            wanted = autoscaler.wanted(pool.target, pool.running + pool.queue, time.monotonic())
            if wanted != pool.target:
                self._scale(name, wanted, now=False)

    def _scale(self, name: str, workers: int, now: bool) -> None:
        pool = self._pools[name]
        how = "at once" if now else "when they are done"
        _log.info("%s: %d workers become %d, those too many leave %s", name, pool.target, workers, how)
        pool.scale(workers, now=now)


def _pool_state(name: str, pool: Pool) -> PoolState:
    workers = tuple(_worker_state(worker) for worker in pool.workers)
    return PoolState(name, pool.target, pool.queue, pool.unit, _bounds(pool) is not None, workers)


def _bounds(pool: Pool) -> AutoscaleSettings | None:
    return pool.settings.autoscale if isinstance(pool.settings, ElasticPoolSettings) else None


def _worker_state(worker: Worker) -> WorkerState:
    node, pid = _place(worker.location)
    version = _version(worker.told.ready) if worker.told is not None else None
    return WorkerState(worker.name, worker.state, node, pid, version, worker.running, worker.done, worker.rate)


def _version(news: News) -> int | None:
    """The policy version that news are about: that of the files to load, or that which was sent and has to be there."""
    return getattr(news.arguments[0], "version", None) if news.arguments else news.answer


def _learner_state(learner: LearnerPool) -> PoolState:
    ranks = tuple(
        WorkerState(f"learner rank {number}", "ready" if location else "starting", *_place(location), None, 0, 0, 0.0)
        for number, location in enumerate(learner.locations)
    )
    return PoolState("learner", len(ranks), 0, "updates", False, ranks)


def _place(location: Location | None) -> tuple[str, int | None]:
    return (location.node, location.pid) if location is not None else ("-", None)
