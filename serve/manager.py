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
    def of(cls, folder: Path) -> "Traces | None":
        """Those of `folder` as it is; None where it goes away meanwhile, as a run removes old checkpoints."""
        try:
            found = [path.stat() for path in folder.rglob("*") if path.is_file()]
        except FileNotFoundError:
            return None
        return cls(len(found), sum(f.st_size for f in found), max((f.st_mtime_ns for f in found), default=0))


class Manager:
    """The one replica of the deployment `manager`; `session` tells one start of the service from another."""

    def __init__(self, config: ServeConfig, checkpoint: Checkpoint, gate: Gate | None, session: str) -> None:
        self._config = config.live
        self._patience = config.safety.request_timeout
        self._serving = checkpoint
        self._gate = gate
        self._store = config.live.store or config.run / "served"
        self._folder = config.live.folder or config.run / CHECKPOINTS
        self._taking = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._coming: Release | None = None
        """Loaded by replicas while it is not decided whether it is taken."""
        self._last_held: dict[Path, float] = {}
        """When a copy was last held, by adapter: a request that began then may still wait for a replica."""
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
        return {folder.name: traces for folder in there if (traces := Traces.of(folder)) is not None}

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
        await self._take(folder.resolve())  # `latest` is no name for a checkpoint
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
        """Take new checkpoints of the followed folder, whatever goes wrong with one of them, or with a look at all."""
        while True:
            try:
                await self._look()
            except Exception:
                LOGGER.exception("%s can't be looked at; trying again", self._folder)
            await asyncio.sleep(self._config.poll_seconds)

    async def _look(self) -> None:
        """Take a new checkpoint: of several the newest, or the one before where it is refused."""
        for folder, traces in await asyncio.to_thread(self._new):
            self._seen[folder.name] = traces
            try:
                await self._take(folder)
            except UserError as refused:  # written down in the catalogue
                LOGGER.warning("checkpoint %s refused: %s", folder.name, refused)
            except Exception:  # replicas that come and go must not end the watch
                LOGGER.exception("checkpoint %s could not be taken; trying again", folder.name)
                del self._seen[folder.name]
            else:
                break

    def _new(self) -> list[tuple[Path, Traces]]:
        """The newest checkpoints first, down to the first that was seen; one that changed since is new again."""
        found = []
        for folder in sorted(self._folder.glob("step_*"), reverse=True):
            traces = Traces.of(folder)
            if traces is None:
                continue
            if folder.name in self._catalogue.releases:
                self._seen[folder.name] = traces  # it is not new again once it is let go
                break
            if self._seen.get(folder.name) != traces:
                found.append((folder, traces))
        return found

    async def _take(self, folder: Path) -> None:
        """Take one checkpoint at a time; other changes, a rollback above all, need not wait until it is decided."""
        async with self._taking:
            if folder.name == self._catalogue.promoted:
                raise UserError(f"{folder.name} answers already; other weights need another name")
            try:
                release = await self._accepted(folder)
            except UserError as refused:
                self._coming, reason = None, str(refused)
                await self._change(lambda catalogue: catalogue.refuse(folder.name, reason))
                raise
            else:
                await self._change(lambda catalogue: self._with(catalogue, release))
            finally:
                self._coming = None

    async def _accepted(self, folder: Path) -> Release:
        """What the checkpoint in `folder` becomes: copied, loaded by every replica, past the gate. Else `UserError`."""
        current = self._catalogue
        checkpoint = await asyncio.to_thread(inspect, folder, self._serving)
        async with self._changing:  # no other change may sweep the copy away before it is known
            release = self._coming = await asyncio.to_thread(self._keep, checkpoint)
        current.take(release)  # raises where its label stands for other weights
        await self._load(release)
        if self._gate is not None:
            await self._gate.check(release, current.newest, self._ask)
        return release

    def _with(self, catalogue: Catalogue, release: Release) -> Catalogue:
        taken = catalogue.take(release, self._config.canary_share)
        if self._config.promote == "automatic" and not catalogue.on_hold:
            return taken.promote(release.label, self._config.keep_previous)
        return taken

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
        wanted = [*catalogue.releases.values(), *([] if self._coming is None else [self._coming])]
        try:
            await self._tell("retain", wanted, timeout=self._config.load_timeout)
        except TimeoutError:  # the change is made; the next one tells them again
            LOGGER.warning("not every replica has unloaded what it need not hold (live.load_timeout)")
        await asyncio.to_thread(store.sweep, self._store, self._needed(before, wanted))

    def _needed(self, before: Catalogue, wanted: list[Release]) -> set[Path]:
        """The copies that somebody may still load: requests that began under an earlier catalogue may yet wait."""
        now = time.monotonic()
        self._last_held |= {release.adapter: now for release in before.releases.values() if release.adapter}
        self._last_held = {path: then for path, then in self._last_held.items() if now - then < self._patience}
        return {*self._last_held, *(release.adapter for release in wanted if release.adapter)}

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
