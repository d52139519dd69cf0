"""An elastic pool of like workers that take calls.

Invariant: a call that was under way on a worker that is lost or taken away is made again on another, before those that
came later.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from actors.crew import Crew, PoolError, Worker
from actors.hosting import Host, WorkerDied, ray_hosts
from dermo_ray.config.pools import PoolSettings

_ATTEMPTS = 5
"""Workers that one call may lose: what kills them all is the call."""
_LATE = 2
"""Workers on which one call may be late: what takes too long for them all needs a longer deadline."""

_log = logging.getLogger(__name__)


class CallFailed(PoolError):
    """One call was too much for several workers; the pool goes on."""


class Pool(Crew):
    """A crew that answers calls. `slots` at most are under way on one worker, the rest waits here.

    Where workers do their calls one after another (`sequential`), the deadline of a call counts from the end of the one
    before it. `measure` says how much work an answer was, in the pool's own `unit`.
    """

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        new_host: Callable[[], Host],
        start_timeout: float,
        slots: float = math.inf,
        measure: Callable[[Any], float] = lambda answer: 1.0,
        unit: str = "calls",
        farewell: str | None = None,
        sequential: bool = False,
    ) -> None:
        super().__init__(name, settings, new_host, start_timeout, farewell)
        self.unit = unit
        self.changed: Callable[[], None] = lambda: None
        """Called whenever calls begin or end."""
        self._slots, self._measure, self._sequential = slots, measure, sequential
        self._waiting: deque[asyncio.Future[Worker]] = deque()

    async def call(self, method: str, *arguments: Any, timeout: float) -> Any:
        """Call `method` on the worker with the least to do; on another one if that worker is lost meanwhile.

        Raises what the method raises, `CallFailed` where it loses workers or is late too often, and `PoolError` where
        the pool has no more workers.
        """
        lost = late = 0
        again = False
        while True:
            worker = await self._acquire(again)
            again = True
            before, over = worker.last, asyncio.get_running_loop().create_future()
            worker.last = over
            try:
                answer = await self._ask(worker, method, arguments, timeout, before if self._sequential else None)
            except WorkerDied as death:
                lost += not worker.leaving.is_set()
                if lost >= _ATTEMPTS:
                    words = await worker.host.last_words()
                    raise CallFailed(
                        f"{method} lost {lost} workers of {self.name}, the last was {worker}: {death}; {words}"
                    ) from death
                continue
            except TimeoutError:
                late += 1
                reason = f"did not answer {method} within {timeout:g} s"
                if late >= _LATE:
                    raise CallFailed(f"{worker} {reason}, and neither did another before it") from None
                self._lose(worker, reason)
                continue
            finally:
                over.set_result(None)
                self._release(worker)
            self._succeeded(worker, answer)
            return answer

    @property
    def queue(self) -> int:
        """Calls that wait for a worker with room."""
        return len(self._waiting)

    @property
    def busy(self) -> float:
        """The share of the workers that have calls under way, of those that are there to take them."""
        taking = [worker for worker in self.workers if worker.state in ("ready", "draining")]
        return sum(worker.running > 0 for worker in taking) / max(1, len(taking))

    @property
    def running(self) -> int:
        """Calls under way."""
        return sum(worker.running for worker in self.workers)

    async def _acquire(self, again: bool) -> Worker:
        self._raise_failure()
        waiter: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)(waiter)
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())
            raise

    def _dispatch(self) -> None:
        """Give waiting calls to the workers with the least to do."""
        while self._waiting:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
                continue
            free = [worker for worker in self.workers if worker.state == "ready" and worker.running < self._slots]
            if not free:
                break
            worker = min(free, key=lambda worker: worker.running)
            worker.running += 1
            self._waiting.popleft().set_result(worker)
        self.changed()

    def _release(self, worker: Worker) -> None:
        worker.running -= 1
        if worker.state == "draining" and worker.running == 0:
            worker.idle.set()
        self._dispatch()

    def _succeeded(self, worker: Worker, answer: Any) -> None:
        if worker.done == 0 and worker.replaces is not None:
            seconds = time.monotonic() - worker.replaces
            _log.info("%s answers %.1f s after the loss of the one before it", worker, seconds)
        worker.done += 1
        worker.work += self._measure(answer)
        self._losses = 0

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()


def ray_pool(
    name: str,
    settings: PoolSettings,
    actor_class: type,
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    start_timeout: float,
    slots: float = math.inf,
    measure: Callable[[Any], float] = lambda answer: 1.0,
    unit: str = "calls",
    farewell: str | None = None,
    sequential: bool = False,
) -> Pool:
    """A pool of Ray actors of `actor_class`, each built with `arguments`; not yet open."""
    hosts = ray_hosts(actor_class, arguments, settings, environment)
    return Pool(name, settings, hosts, start_timeout, slots, measure, unit, farewell, sequential)
