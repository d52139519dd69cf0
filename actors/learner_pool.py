"""The learner pool: DeepSpeed ranks that only work together, and come back together.

Invariants: every call goes to all ranks at once, with a deadline; the first rank that fails, dies, freezes or is late
counts, since it leaves the others waiting in a collective, and is named; all ranks are then started anew from the last
good checkpoint, the updates made since are made again from the same batches, and so is the call. Engines notice
nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.adapters import Published, Sent
from actors.environment import training_environment
from actors.hosting import Host, Location, WorkerDied, last_line, ray_hosts
from actors.interfaces import CheckpointError
from actors.messages import CompletionName, ScoredGroup, TrainingGroup
from actors.pool import PoolError
from dermo_ray.config.mavic import MavicConfig

_ATTEMPTS = 5
"""Times that one call is made before the run ends."""
_PLACE = "its placement"
"""What a rank is waited for until it has a process."""
_PROOF_OF_LIFE = 10.0
"""Seconds that a rank has to show that it is not the one to blame for another's error."""

_log = logging.getLogger(__name__)


class RankError(PoolError):
    """A rank failed; `own` says that its code raised, and would again, rather than its process ending."""

    def __init__(self, message: str, own: bool) -> None:
        super().__init__(message)
        self.own = own


class LearnerPool:
    """`config.learner.workers` ranks on their own resources.

    `new_host` makes the host of a rank. `share` turns a batch into what ranks are sent: by default a reference into
    Ray's object store, so that it travels once however many ranks read it, and lies on disk where memory is short.
    """

    def __init__(
        self,
        config: MavicConfig,
        new_host: Callable[[int], Host] | None = None,
        share: Callable[[list[Any]], Any] = ray.put,
    ) -> None:
        self._config = config
        self._new_host = new_host or _ray_ranks(config)
        self._share = share
        self.ranks: list[Host] = []
        self.locations: list[Location | None] = []
        self.restarts = 0
        """Times that the ranks were started anew."""
        self._good: Path | None = None
        """The checkpoint to start from, None for the beginning of the run."""
        self._since: list[tuple[Any, int]] = []
        """The updates made since, each with its batch."""
        self._written = 0
        """How many of them the checkpoint holds that was written last."""
        self.engines: Callable[[], dict[str, Any]] = dict
        """Gives the actors whose engines weights are sent to, by name, where they are sent and not written."""
        self._connected: dict[str, Any] | None = None
        """Those that the ranks have met."""
        self._broken_off = 0
        """Transfers in a row that did not end."""
        self._version = 0
        """Updates that the ranks have made."""
        self._turn = asyncio.Lock()
        """Ranks do one thing at a time, all of them the same."""
        self._broken: RankError | None = None
        """Why the ranks can't be called before they are started anew."""

    async def open(self, learner: Path | None = None) -> None:
        """Start the ranks, from the shards in `learner` where a run goes on."""
        self._good = learner
        for attempt in range(_ATTEMPTS):
            try:
                await self._start()
                return
            except RankError as error:
                self.close()
                if error.own or attempt == _ATTEMPTS - 1:
                    raise
                _log.warning("%s; all learner ranks start anew", error)

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """One update from `batch`; the metrics, which are the same on every rank."""
        shared = self._share(list(batch))
        async with self._turn:
            metrics: dict[str, float] = (await self._surely("update", shared, step))[0]
            self._since.append((shared, step))
            self._version = step + 1
        return metrics

    async def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """Log-probabilities, in nats, of every token of the last update, by the policy before it."""
        async with self._turn:
            shares: list[dict[CompletionName, list[float]]] = await self._surely("trained_logprobs")
        return {name: logprobs for share in shares for name, logprobs in share.items()}

    async def divergences(self, batch: Sequence[ScoredGroup]) -> list[float]:
        """How far each completion of `batch` takes the policy from itself without its adapter, in nats."""
        async with self._turn:
            values: list[float] = (await self._surely("divergences", self._share(list(batch))))[0]
        return values

    async def publish(self, folder: Path, version: int) -> Published | Sent:
        """Hand over the weights as policy `version`: sent to the engines, or written below `folder`.

        Where a transfer breaks off, the ranks start anew and write; the second in a row is a `PoolError`.
        """
        async with self._turn:
            self._version = version
            if self._config.sends_weights:
                try:
                    await self._send(version)
                    return Sent(version)
                except PoolError as error:
                    self._broken_off += 1
                    if self._broken_off > 1:
                        raise
                    _log.warning("policy version %d is written, for it could not be sent: %s", version, error)
            return await self._write(folder)

    async def write(self, folder: Path) -> Published:
        """Write the weights below `folder` as they are now, for engines that no transfer reached."""
        async with self._turn:
            return await self._write(folder)

    async def save(self, folder: Path) -> None:
        """Write the ranks' part of a checkpoint into `folder`. Raises `CheckpointError` where that failed."""
        async with self._turn:
            self._written = len(self._since)
            try:
                await self._surely("save", folder, attempts=1)
            except PoolError as error:
                raise CheckpointError(str(error)) from error

    def saved(self, checkpoint: Path) -> None:
        """What was written last is safe in `checkpoint`: the state to go back to."""
        self._good = checkpoint / "learner"
        del self._since[: self._written]

    def close(self) -> None:
        """End all ranks."""
        for rank in self.ranks:
            rank.kill()
        self.ranks = []

    async def _send(self, version: int) -> None:
        engines = self.engines()
        if self._broken is not None or self._connected != engines:
            self._connected = None
            each = self._config.rollout.engine.tensor_parallel_size
            address, port = (await self._surely("endpoint", attempts=1))[0]
            await self._surely("connect", engines, each, address, port, attempts=1)
            self._connected = engines
        await self._surely("send", version, attempts=1)
        self._broken_off = 0

    async def _write(self, folder: Path) -> Published:
        weights: Published = (await self._surely("publish", folder, self._version))[0]
        return weights

    async def _start(self) -> None:
        workers = self._config.learner.workers
        self._connected = None
        self.ranks = [self._new_host(rank) for rank in range(workers)]
        self.locations = [None] * workers
        self.locations = await self._each([rank.locate() for rank in self.ranks], _PLACE)
        address, port = (await self._each([self.ranks[0].ask("endpoint", ())], "endpoint"))[0]
        await self._all("start", address, port, self._good)

    async def _restart(self, cause: RankError) -> None:
        """Start all ranks anew and make the updates again that the last good checkpoint does not hold."""
        self.restarts += 1
        begin = self._good.parent.name if self._good is not None else "the beginning"
        _log.warning(
            "%s; all learner ranks start anew from %s and make %d updates again", cause, begin, len(self._since)
        )
        self.close()
        await self._start()
        for shared, step in self._since:
            await self._all("update", shared, step)
        self._broken = None

    async def _surely(self, method: str, *arguments: Any, attempts: int = _ATTEMPTS) -> list[Any]:
        """Call `method` on every rank, after a new start where one failed. Raises `PoolError` where that goes on.

        An error of a rank's own, such as a loss that is not finite, would come again: its second time is the last.
        """
        own = 0
        for attempt in range(attempts):
            try:
                if self._broken is not None:
                    await self._restart(self._broken)
                return await self._all(method, *arguments)
            except RankError as failure:
                self._broken = failure
                own += failure.own
                if own > 1 or attempt == attempts - 1:
                    tried = f" ({attempt + 1} times, started anew in between)" if attempt else ""
                    raise PoolError(f"{failure}{tried}") from failure.__cause__
        raise AssertionError("no attempt was allowed")

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` on every rank."""
        return await self._each([rank.ask(method, arguments) for rank in self.ranks], method)

    async def _each(self, answers: Sequence[Any], what: str) -> list[Any]:
        """The answers of the first ranks, in order, unless one of the pool fails meanwhile. Raises `RankError`."""
        settings = self._config.learner
        asked = {asyncio.ensure_future(answer): number for number, answer in enumerate(answers)}
        watched = {asyncio.ensure_future(self._watch(number)): number for number in range(len(self.ranks))}
        deadline = asyncio.get_running_loop().time() + settings.timeout
        try:
            missing = set(asked)
            while missing:
                left = deadline - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait(
                    missing | watched.keys(), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if error is not None:
                        raise await self._named((asked | watched)[task], what, error) from error
                if not done:
                    late = ", ".join(self._name(asked[task]) for task in missing)
                    if what == _PLACE:
                        needs = f"each needs {settings.placement}"
                        raise RankError(f"{late} found no place within {settings.timeout:g} s: {needs}", own=False)
                    raise RankError(f"{late} did not answer {what} within {settings.timeout:g} s", own=False)
                missing -= done
            return [task.result() for task in asked]
        finally:
            for task in (*asked, *watched):
                task.cancel()
            await asyncio.gather(*asked, *watched, return_exceptions=True)

    async def _watch(self, number: int) -> None:
        """Ends only where a rank gives no sign of life. Raises `WorkerDied`."""
        if self.locations[number] is None:
            await asyncio.Event().wait()  # it has no process yet
        while True:
            try:  # not wait_for, which may swallow that it is cancelled
                async with asyncio.timeout(self._config.learner.heartbeat):
                    await self.ranks[number].ping()
            except TimeoutError:
                raise WorkerDied(f"gave no sign of life within {self._config.learner.heartbeat:g} s") from None
            await asyncio.sleep(self._config.learner.heartbeat / 3)

    async def _named(self, number: int, what: str, error: BaseException) -> RankError:
        """The rank to blame. One that dies leaves the others with errors about their connection to it."""
        if not isinstance(error, WorkerDied):
            for other, rank in enumerate(self.ranks):
                try:
                    async with asyncio.timeout(min(_PROOF_OF_LIFE, self._config.learner.heartbeat)):
                        await rank.ping()
                except (WorkerDied, TimeoutError) as death:
                    number, error = other, WorkerDied(str(death) or "gave no sign of life")
                    break
            else:
                return RankError(f"{self._name(number)} failed in {what}: {last_line(error)}", own=True)
        words = await self.ranks[number].last_words()
        return RankError(f"{self._name(number)} was lost in {what}: {error}; {words}", own=False)

    def _name(self, number: int) -> str:
        location = self.locations[number]
        return f"learner rank {number} ({location})" if location is not None else f"learner rank {number}"


def _ray_ranks(config: MavicConfig) -> Callable[[int], Host]:
    def new_host(rank: int) -> Host:
        # imported by the actors alone: the driver needs neither DeepSpeed nor its start-up time
        from actors.learner import LearnerRank

        return ray_hosts(LearnerRank, (config, rank), config.learner, training_environment(config.learner))()

    return new_host
