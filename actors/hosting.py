"""Where workers live: what a pool needs of a worker's process, and the Ray actor that gives it.

Invariants: an answer, the method's own error, or `WorkerDied` are all that a question comes to; a host that was killed
answers nothing more. Pools know hosts through `Host` alone, so that they are tested with hosts in one process.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dermo_ray.config.pools import PoolSettings

_LOG_LINES = 3
"""Lines of a dead worker's log that are worth showing."""
_LOG_DEADLINE = 20.0
"""Seconds within which its node must hand them over."""
_IDENTIFIERS = ("class_name:", "actor_id:", "pid:", "namespace:", "ip:", "name:")


def end_process(reason: str) -> NoReturn:
    """End this process, and with it those bound to it; `reason` is the last line of its log."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


class WorkerDied(Exception):
    """A worker's process ended, or can't be reached any more; the message says why."""


@dataclass(frozen=True)
class Location:
    """Where a worker's process runs."""

    node: str
    """The node's address."""
    pid: int
    node_id: str = ""
    logs: tuple[Path, ...] = ()
    """The files on that node that its output goes to."""

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.node}"


class Host(Protocol):
    """A worker's process, which takes its time to be placed and can end at any moment."""

    async def locate(self) -> Location:
        """Where it runs; waits until it does, however long the cluster takes to find a place for it."""

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The worker's answer. Raises `WorkerDied`, or what the method raised."""

    async def ping(self) -> None:
        """Returns while the process is alive and not frozen, also while the worker works on something."""

    def kill(self) -> None:
        """End the process at once, frozen or not."""

    async def last_words(self) -> str:
        """The last lines of its log, in one line; says so where they are out of reach."""


class RayHost:
    """A worker as a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = self._actor = actor
        self._location: Location | None = None

    async def locate(self) -> Location:
        """See `Host`."""
        if self._location is None:
            location: Location = await self.ask("host_location", ())
            self._location = location
        return self._location

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """See `Host`."""
        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayTaskError:
            raise
        except RayError as death:
            raise WorkerDied(_why(death)) from death

    async def ping(self) -> None:
        """See `Host`."""
        await self.ask("host_ping", ())

    def kill(self) -> None:
        """See `Host`."""
        ray.kill(self._actor)

    async def last_words(self) -> str:
        """See `Host`."""
        if self._location is None or not self._location.logs:
            return "it wrote nothing"
        strategy = NodeAffinitySchedulingStrategy(self._location.node_id, soft=False)
        read = ray.remote(_last_lines).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0)
        try:
            async with asyncio.timeout(_LOG_DEADLINE):
                lines: str = await read.remote(self._location.logs)
        except (RayError, TimeoutError):
            return "its log is out of reach"
        return f"its last lines: {lines}" if lines else "it wrote nothing"


def ray_hosts(
    actor_class: type, arguments: tuple[Any, ...], settings: PoolSettings, environment: dict[str, str]
) -> Callable[[], RayHost]:
    """Makes actors of `actor_class`, each built with `arguments`, placed as `settings` say."""
    decorate: Any = ray.remote  # its static types leave out most of what it takes
    remote = decorate(concurrency_groups={"health": 1})(_hosted(actor_class)).options(
        num_cpus=settings.cpus_per_worker,
        num_gpus=settings.gpus_per_worker,
        accelerator_type=settings.accelerator_type,
        label_selector=settings.node_labels or None,
        resources=settings.resources or None,
        runtime_env={"env_vars": environment},
    )
    return lambda: RayHost(remote.remote(*arguments))


def _hosted(actor_class: type) -> type:
    """`actor_class` with the two methods that a host needs, which answer while the others are at work."""

    @ray.method(concurrency_group="health")
    def host_location(self: Any) -> Location:
        context = ray.get_runtime_context()
        logs = dict.fromkeys(Path(os.readlink(f"/proc/self/fd/{descriptor}")) for descriptor in (2, 1))
        files = tuple(path for path in logs if path.is_file())
        return Location(ray.util.get_node_ip_address(), os.getpid(), context.get_node_id(), files)

    @ray.method(concurrency_group="health")
    def host_ping(self: Any) -> None:
        return None

    return type(actor_class.__name__, (actor_class,), {"host_location": host_location, "host_ping": host_ping})


def _last_lines(logs: tuple[Path, ...]) -> str:
    """The last lines of each file that says anything; Ray's own marks are left out."""
    found = []
    for path in logs:
        if path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                text = file.read().decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(":")]
            found += [line[:300] for line in lines[-_LOG_LINES:]]
    return " | ".join(found)


def _why(death: RayError) -> str:
    """Ray's reason in one line, without the identifiers that it begins with."""
    lines = [line.strip() for line in str(death).splitlines()]
    told = [line for line in lines if line and not line.startswith(_IDENTIFIERS)]
    return " ".join(told)[:300] or type(death).__name__


def last_line(error: BaseException) -> str:
    """What went wrong, without the traceback that Ray puts before it."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
