"""The manager of a service's releases: finds checkpoints, has every replica load them, and decides which one answers.

Invariants: one change at a time; a checkpoint becomes a release only once its manifest was right, its copy lies in the
store and every replica has loaded it; the catalogue is saved before anybody hears of it. Whatever goes wrong with a
checkpoint is written down as the reason for refusing it and leaves the others as they are.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.run_directory import CHECKPOINTS
from serve import store
from serve.catalogue import Catalogue, Release
from serve.checkpoints import Checkpoint, inspect
from serve.gate import Gate
from serve.messages import Answer

LOGGER = logging.getLogger("ray.serve")

_LONG_POLL = 10.0
"""Seconds after which a follower is told that nothing has changed."""
_PAUSE = 0.5
"""Seconds between two attempts to reach replicas while there are none."""


class Traces(NamedTuple):
    """What tells that somebody is still writing to a folder, or has written to it again."""

    files: int
    size: int
    modified: int

    @classmethod
    def of(cls, folder: Path) -> "Traces":
        """Those of `folder` as it is."""
        found = [path.stat() for path in folder.rglob("*") if path.is_file()]
        return cls(len(found), sum(f.st_size for f in found), max((f.st_mtime_ns for f in found), default=0))


class Manager:
    """The one replica of the deployment `manager`; `session` tells one start of the service from another."""

    def __init__(self, config: ServeConfig, checkpoint: Checkpoint, gate: Gate | None, session: str) -> None:
        self._config = config.live
        self._serving = checkpoint
        self._gate = gate
        self._store = config.live.store or config.run / "served"
        self._folder = config.live.folder or config.run / CHECKPOINTS
        self._changing = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._catalogue = self._begin(config.checkpoint, session)
        self._seen: dict[str, Traces] = self._known(config.checkpoint)
        self._watching = asyncio.get_running_loop().create_task(self._watch()) if config.live.follow else None

    def _begin(self, asked: str, session: str) -> Catalogue:
        """The catalogue that this service left when it was cut off, or an earlier one; what is asked for answers."""
        before = store.load(self._store)
        if before is not None and before.session == session:
            return before
        if before is not None and asked == "latest" and self._serving.adapter is not None:
            catalogue = before.model_copy(update={"session": session})
        else:
            release = store.keep(self._store, self._serving)
            catalogue = Catalogue.starting_with(release, session)
            if before is not None and release.adapter is not None:
                again = before.model_copy(update={"session": session})
                catalogue = again.take(release).promote(release.label, self._config.keep_previous)
        store.save(self._store, catalogue)
        return catalogue

    def _known(self, asked: str) -> dict[str, Traces]:
        """The checkpoints that are there already and are not to be taken; the newest is where `latest` is asked for."""
        there = sorted(self._folder.glob("step_*"))
        if asked == "latest" and there and there[-1].name not in self._catalogue.refused:
            there = there[:-1]
        return {folder.name: Traces.of(folder) for folder in there}

    async def catalogue(self) -> Catalogue:
        """The catalogue as it is."""
        return self._catalogue

    async def follow(self, revision: int) -> Catalogue:
        """The catalogue once it is another than that of `revision`, or after a while in any case."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._catalogue.revision != revision), timeout=_LONG_POLL
                )
        return self._catalogue

    async def push(self, folder: Path) -> Catalogue:
        """Take the checkpoint in `folder`, and promote it where promotion is automatic.

        Raises `UserError` with the reason where it is refused.
        """
        async with self._changing:
            await self._take(folder)
        return self._catalogue

    async def promote(self, label: str) -> Catalogue:
        """Let `label` answer to the bare name."""
        return await self._change(lambda catalogue: catalogue.promote(label, self._config.keep_previous))

    async def roll_back(self) -> Catalogue:
        """Let the release before answer again; newer checkpoints then wait for `promote`."""
        return await self._change(Catalogue.roll_back)

    async def pin(self, label: str) -> Catalogue:
        """Keep `label` loaded."""
        return await self._change(lambda catalogue: catalogue.pin(label))

    async def unpin(self, label: str) -> Catalogue:
        """Let `label` go with the others."""
        return await self._change(lambda catalogue: catalogue.unpin(label))

    async def canary(self, label: str, share: float) -> Catalogue:
        """Let `label` answer a share of the requests to the bare name."""
        return await self._change(lambda catalogue: catalogue.canary(label, share))

    async def _watch(self) -> None:
        """Take new checkpoints of the followed folder: of several the newest, or the one before where it is refused."""
        while True:
            for folder, traces in await asyncio.to_thread(self._new):
                self._seen[folder.name] = traces
                try:
                    async with self._changing:
                        await self._take(folder)
                except UserError as refused:  # written down in the catalogue
                    LOGGER.warning("checkpoint %s refused: %s", folder.name, refused)
                except Exception:  # replicas that come and go must not end the watch
                    LOGGER.exception("checkpoint %s could not be taken; trying again", folder.name)
                    del self._seen[folder.name]
                else:
                    break
            await asyncio.sleep(self._config.poll_seconds)

    def _new(self) -> list[tuple[Path, Traces]]:
        """The newest checkpoints first, down to the first that was seen; one that changed since is new again."""
        found = []
        for folder in sorted(self._folder.glob("step_*"), reverse=True):
            traces = Traces.of(folder)
            if folder.name in self._catalogue.releases:
                self._seen[folder.name] = traces  # it is not new again once it is let go
                break
            if self._seen.get(folder.name) != traces:
                found.append((folder, traces))
        return found

    async def _take(self, folder: Path) -> None:
        before = self._catalogue
        if folder.name == before.promoted:
            raise UserError(f"{folder.name} answers already; other weights need another name")
        try:
            checkpoint = await asyncio.to_thread(inspect, folder, self._serving)
            release = await asyncio.to_thread(self._keep, checkpoint)
            catalogue = before.take(release, self._config.canary_share)
            await self._load(release)
            if self._gate is not None:
                await self._gate.check(release, before.newest, self._ask)
        except UserError as refused:
            await self._announce(before.refuse(folder.name, str(refused)))
            raise
        if self._config.promote == "automatic" and not before.on_hold:
            catalogue = catalogue.promote(release.label, self._config.keep_previous)
        await self._announce(catalogue)

    def _keep(self, checkpoint: Checkpoint) -> Release:
        try:
            return store.keep(self._store, checkpoint)
        except OSError as error:  # a run removes its oldest checkpoints
            raise UserError(f"{checkpoint.label} can't be copied into {self._store}: {error}") from error

    async def _load(self, release: Release) -> None:
        """Have every replica load `release`. Raises `UserError` where one can't, or takes too long."""
        deadline = time.monotonic() + self._config.load_timeout
        found: list[Any] = []
        while not (loaded := [result for result in found if not isinstance(result, RayActorError)]):
            # replicas that start meanwhile, or that a request reaches first, load what it names
            left = deadline - time.monotonic()
            try:
                found = await self._tell("hold", release, timeout=max(0.0, left))
            except TimeoutError:
                raise UserError(
                    f"{release.label} was not loaded by every replica within {self._config.load_timeout:g} s "
                    "(live.load_timeout)"
                ) from None
            await asyncio.sleep(0 if found else _PAUSE)
        for result in loaded:
            if isinstance(result, BaseException):
                cause = result.cause if isinstance(result, RayTaskError) else result
                raise UserError(f"{release.label} can't be loaded: {' '.join(str(cause).split())[:300]}")
            if result != release.checksum:
                raise UserError(f"a replica loaded other weights for {release.label} than were published")

    async def _ask(self, release: Release, body: dict[str, Any]) -> Answer:
        answer: Answer = await self._replicas.complete.remote(release, body)
        return answer

    async def _change(self, change: Callable[[Catalogue], Catalogue]) -> Catalogue:
        async with self._changing:
            await self._announce(change(self._catalogue))
        return self._catalogue

    async def _announce(self, catalogue: Catalogue) -> None:
        """Save `catalogue`, tell those who follow, and let the replicas unload what it no longer holds."""
        await asyncio.to_thread(store.save, self._store, catalogue)
        before, self._catalogue = self._catalogue, catalogue
        async with self._changed:
            self._changed.notify_all()
        await self._tell("retain", list(catalogue.releases.values()), timeout=self._config.load_timeout)
        await asyncio.to_thread(store.sweep, self._store, before, catalogue)

    async def _tell(self, method: str, argument: Any, timeout: float) -> list[Any]:
        """Call `method` on every replica there is; exceptions are among the results. Raises `TimeoutError`."""
        try:
            calls = self._replicas.broadcast(method, argument)
            return await calls.results_async(timeout_s=timeout, return_exceptions=True)
        except DeploymentUnavailableError:  # there are none just now
            return []

    @property
    def _replicas(self) -> DeploymentHandle:
        return serve.get_deployment_handle("policy")
