"""The workers of a pool: they are placed, started, told news, watched, replaced when they are lost, added and let go.

Invariants: a worker is ready only once it has been told the latest news; every wait has a deadline, and what is raised
names the worker, its node and what was waited for; `close` leaves no worker behind.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.hosting import Host, Location, WorkerDied, last_line
from dermo_ray.config.pools import PoolSettings

_LOSSES = 3
"""Losses in a row, for each worker that should be there, after which a pool gives up: no call succeeded meanwhile."""

_log = logging.getLogger(__name__)

State = Literal["placing", "starting", "ready", "draining", "gone"]


class PoolError(RuntimeError):
    """A pool could not do its work; the message names pool, worker, node and what was waited for."""


@dataclass(eq=False)
class Worker:
    """One worker: where it runs, what it is doing, and what it has done."""

    name: str
    host: Host
    gone: asyncio.Future[str]
    """Done once it takes part no more; the result says why."""
    state: State = "placing"
    location: Location | None = None
    running: int = 0
    """Calls under way."""
    last: asyncio.Future[None] | None = None
    """Done once the call that was made last is over."""
    done: int = 0
    """Calls answered."""
    work: float = 0.0
    """What they amounted to, in the pool's own unit."""
    ready_at: float = math.inf
    replaces: float | None = None
    """When the worker was lost in whose place it is, unless it came for another reason."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is leaving and has no call left."""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    told: "Telling | None" = None

    def __str__(self) -> str:
        return f"{self.name} ({self.location})" if self.location else self.name

    @property
    def rate(self) -> float:
        """Work a second since it became ready."""
        return self.work / max(1e-9, time.monotonic() - self.ready_at) if self.done else 0.0


@dataclass(frozen=True)
class News:
    """What a worker must be told before it takes calls, and what it must answer where that is known."""

    method: str
    arguments: tuple[Any, ...]
    timeout: float
    answer: Any = None


@dataclass(frozen=True, eq=False)
class Telling:
    """News for those that are ready, and for those to come, for whom they may have to be made first."""

    ready: News
    newcomers: Callable[[], Awaitable[News]] | None


class Crew:
    """`settings.workers` workers, each on a host of its own that `new_host` makes, ready once their `start` returns."""

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        new_host: Callable[[], Host],
        start_timeout: float,
        farewell: str | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.target = settings.workers
        """How many workers there should be."""
        self.workers: list[Worker] = []
        """Those that are there, in whatever state."""
        self.start_arguments: tuple[Any, ...] = ()
        """What workers are started with from now on."""
        self._new_host, self._start_timeout, self._farewell = new_host, start_timeout, farewell
        self._telling: Telling | None = None
        self._deaf = 0
        """Workers in a row that could not take the news."""
        self._count = self._losses = 0
        self._nobody_since = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._opened: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Start all workers side by side and wait for them. Raises what the first of them that can't start raises."""
        self._opened = asyncio.get_running_loop().create_future()
        self._spawn(self._watch())
        self._fill()
        await self._opened

    async def tell(self, news: News, newcomers: Callable[[], Awaitable[News]] | None = None) -> None:
        """Call the method of `news` on every worker that takes calls, and on each to come before it does.

        Those to come are told what `newcomers` gives instead, where there is one. A worker that does not give the
        answer (any will do where that is None), is late, or raises, is replaced; two in a row are a `PoolError`.
        """
        self._telling = Telling(news, newcomers)
        ready = [worker for worker in self.workers if worker.state == "ready"]
        await asyncio.gather(*(self._inform_or_lose(worker) for worker in ready))
        self._raise_failure()

    def scale(self, workers: int, *, now: bool = False) -> None:
        """Have `workers` workers from now on.

        Those too many finish their calls first, or with `now` are taken away and their calls made again elsewhere.
        """
        if not self.target:
            self._nobody_since = time.monotonic()
        self.target = workers
        order = ("placing", "starting", "ready")
        staying = sorted(
            (worker for worker in self.workers if worker.state in order),
            key=lambda worker: (-order.index(worker.state), -worker.running),
        )
        for worker in staying[workers:]:
            self._let_go(worker, now)
        if now:
            for worker in [worker for worker in self.workers if worker.state == "draining"]:
                self._let_go(worker, now)
        self._fill()

    async def close(self, farewell: str | None = None, timeout: float = 30) -> None:
        """End all workers, after calling `farewell` on those that still answer."""
        self._farewell = farewell or self._farewell
        answering = [worker for worker in self.workers if worker.state in ("ready", "draining")]
        if self._farewell is not None:
            await asyncio.gather(*(self._bid_farewell(worker, timeout) for worker in answering))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in list(self.workers):
            self._end(worker, "the pool was closed")

    @property
    def failed(self) -> bool:
        """Whether it has given up, so that every call fails."""
        return self._failure is not None

    @property
    def _is_open(self) -> bool:
        return self._opened is not None and self._opened.done()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- one worker ----------------------------------------------------------------------------------------------------

    def _fill(self, replaces: float | None = None) -> None:
        """Start as many workers as are missing, the first in place of one that was lost then."""
        there = sum(worker.state in ("placing", "starting", "ready") for worker in self.workers)
        for _ in range(self.target - there):
            self._count += 1
            gone = asyncio.get_running_loop().create_future()
            worker = Worker(f"{self.name} worker {self._count}", self._new_host(), gone)
            worker.replaces, replaces = replaces, None
            self.workers.append(worker)
            self._spawn(self._live(worker))

    async def _live(self, worker: Worker) -> None:
        """The life of a worker, from its placement to its end."""
        try:
            await self._start(worker)
            await self._keep_an_eye_on(worker)
        except WorkerDied as death:
            self._lose(worker, str(death))
            return
        except Exception as error:
            if not self._is_open:
                self._fail(error)
            self._lose(worker, f"could not start: {last_line(error)}")
            return
        if self._farewell is not None:
            await self._bid_farewell(worker, timeout=30)
        self._end(worker, "it was let go")
        _log.info("%s was let go", worker)

    async def _start(self, worker: Worker) -> None:
        # later on, a worker may wait for its place until a node with room joins the cluster
        patience = None if self._is_open else self._start_timeout
        try:
            worker.location = await self._unless_gone(worker, worker.host.locate(), patience)
        except TimeoutError:
            raise PoolError(
                f"{worker} found no place within {self._start_timeout:g} s: it needs {self.settings.placement}"
            ) from None
        worker.state = "starting"
        try:
            starting = worker.host.ask("start", self.start_arguments)
            await self._unless_gone(worker, starting, self._start_timeout)
        except TimeoutError:
            raise PoolError(f"{worker} was not ready within {self._start_timeout:g} s") from None
        while worker.told is not self._telling:
            await self._inform(worker)
        worker.state, worker.ready_at = "ready", time.monotonic()
        self._nobody_since = math.inf
        ready = sum(worker.state == "ready" for worker in self.workers)
        if self._opened is not None and not self._opened.done() and ready >= self.target:
            self._opened.set_result(None)
        self._dispatch()

    async def _keep_an_eye_on(self, worker: Worker) -> None:
        """Returns once the worker is to leave and has no call left. Raises `WorkerDied` where it stops to answer."""
        deadline = self.settings.heartbeat
        while not worker.idle.is_set():
            began = time.monotonic()
            try:
                await self._unless_gone(worker, worker.host.ping(), deadline)
            except TimeoutError:
                raise WorkerDied(f"gave no sign of life within {deadline:g} s") from None
            try:
                rest = max(0.0, deadline / 3 - (time.monotonic() - began))
                await self._unless_gone(worker, worker.idle.wait(), rest)
            except TimeoutError:
                continue

    async def _ask(
        self,
        worker: Worker,
        method: str,
        arguments: tuple[Any, ...],
        timeout: float,
        after: asyncio.Future[None] | None = None,
    ) -> Any:
        """Ask at once; `timeout` counts from when `after` is done, where there is one.

        Raises `WorkerDied`, `TimeoutError`, or what the method raises.
        """
        asked = asyncio.ensure_future(worker.host.ask(method, arguments))
        try:
            if after is not None:
                await asyncio.wait({asked, after, worker.gone}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({asked, worker.gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                try:
                    return asked.result()
                except WorkerDied as death:
                    self._lose(worker, str(death))
                    raise
            if worker.gone.done():
                raise WorkerDied(worker.gone.result())
            raise TimeoutError
        finally:
            asked.cancel()

    async def _unless_gone(self, worker: Worker, awaited: Any, timeout: float | None) -> Any:
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait({task, worker.gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if worker.gone.done():
                raise WorkerDied(worker.gone.result())
            raise TimeoutError
        finally:
            task.cancel()

    async def _bid_farewell(self, worker: Worker, timeout: float) -> None:
        assert self._farewell is not None
        farewell = asyncio.ensure_future(worker.host.ask(self._farewell, ()))
        await asyncio.wait({farewell}, timeout=timeout)
        if farewell.done() and farewell.exception() is not None:
            _log.info("%s did not take leave: %s", worker, farewell.exception())
        farewell.cancel()

    # -- news ----------------------------------------------------------------------------------------------------------

    async def _inform(self, worker: Worker) -> None:
        """Tell a worker the latest news. Raises `WorkerDied`, and `PoolError` where it can't take them."""
        telling = self._telling
        assert telling is not None
        news = telling.ready
        if worker.state == "starting" and telling.newcomers is not None:
            news = await telling.newcomers()
        fault: PoolError | None = None
        try:
            answer = await self._ask(worker, news.method, news.arguments, news.timeout)
            if news.answer is not None and answer != news.answer:
                fault = PoolError(f"{worker} answered {news.method} with {answer!r:.40}, not {news.answer!r:.40}")
        except WorkerDied:
            raise
        except TimeoutError:
            fault = PoolError(f"{worker} did not answer {news.method} within {news.timeout:g} s")
        except Exception as error:
            fault = PoolError(f"{worker} failed in {news.method}: {last_line(error)}")
            fault.__cause__ = error
        if fault is None:
            worker.told, self._deaf = telling, 0
        elif self._telling is telling:  # what a newcomer can't take may be no news any more
            self._deaf += 1
            if self._deaf > 1:
                self._fail(fault)
            raise fault

    async def _inform_or_lose(self, worker: Worker) -> None:
        try:
            await self._inform(worker)
        except (WorkerDied, PoolError) as error:
            self._lose(worker, str(error))

    # -- losses --------------------------------------------------------------------------------------------------------

    def _lose(self, worker: Worker, reason: str) -> None:
        """Count a worker as lost, make sure that it is, and start another in its place."""
        if worker.gone.done():
            return
        lost_at = time.monotonic() if worker.state == "ready" else worker.replaces
        leaving, running = worker.leaving.is_set(), worker.running
        self._end(worker, reason)
        self._losses += not leaving
        if self._losses > _LOSSES * max(1, self.target):
            self._spawn(self._give_up(worker, reason, self._losses - 1))
            return
        again = f"its {running} calls are made again" if running else "it had no call"
        self._spawn(self._report(worker, reason, f"{again}, it was leaving" if leaving else f"{again}, another starts"))
        self._fill(None if leaving else lost_at)

    async def _report(self, worker: Worker, reason: str, consequence: str) -> None:
        """Say what happened in one line, with what the worker said last."""
        _log.warning("%s was lost: %s; %s; %s", worker, reason, await worker.host.last_words(), consequence)

    async def _give_up(self, worker: Worker, reason: str, before: int) -> None:
        words = await worker.host.last_words()
        self._fail(PoolError(f"{worker} died, as did {before} before it: {reason}; {words}"))

    def _let_go(self, worker: Worker, now: bool) -> None:
        was = worker.state
        worker.state = "draining"
        worker.leaving.set()
        if now or was in ("placing", "starting"):
            self._end(worker, "it was taken away")
        elif worker.running == 0:
            worker.idle.set()

    def _end(self, worker: Worker, reason: str) -> None:
        """Take a worker off the list and end its process."""
        if worker.gone.done():
            return
        worker.gone.set_result(reason)
        worker.state = "gone"
        self.workers.remove(worker)
        worker.host.kill()
        if not any(other.state == "ready" for other in self.workers) and self._nobody_since == math.inf:
            self._nobody_since = time.monotonic()

    async def _watch(self) -> None:
        """Fail the pool where nobody has been ready for too long."""
        while True:
            await asyncio.sleep(min(1.0, self._start_timeout / 10))
            # a pool that was told to have no worker waits for one as long as it takes; opening has deadlines of its own
            if self.target and self._is_open and time.monotonic() - self._nobody_since > self._start_timeout:
                self._fail(
                    PoolError(f"no {self.name} worker was ready within {self._start_timeout:g} s: {self._states()}")
                )

    def _states(self) -> str:
        """What each worker is waiting for."""
        words = {"placing": f"waits for {self.settings.placement}", "starting": "is starting"}
        return "; ".join(f"{worker} {words.get(worker.state, worker.state)}" for worker in self.workers)

    def _fail(self, error: BaseException) -> None:
        """From now on every call raises `error`."""
        if self._failure is not None:
            return
        self._failure = error
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)

    def _dispatch(self) -> None:
        """A worker has become ready for calls."""

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
