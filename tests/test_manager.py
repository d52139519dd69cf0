"""The manager over replicas that only note what they are told."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dermo_ray import checkpoints
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from serve.catalogue import Catalogue, Release
from serve.checkpoints import resolve
from serve.manager import Manager, Traces


class Replica:
    """A replica that loads what it is told; `gate` holds the gate open or shut."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()

    def broadcast(self, method: str, argument: Any) -> Any:
        async def results(timeout_s: float, return_exceptions: bool) -> list[Any]:
            if method == "hold":
                self.loaded.add(argument.label)
                return [argument.checksum]
            self.loaded &= {release.label for release in argument}
            return [sorted(self.loaded)]

        return SimpleNamespace(results_async=results)


class Gate:
    """A gate that opens when it is told to, and lets nothing through that is called bad."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.bad: set[str] = set()

    async def check(self, candidate: Release, current: Release, ask: object) -> None:
        self.reached.set()
        await self.opened.wait()
        if candidate.label in self.bad:
            raise UserError(f"{candidate.label} did not pass the gate")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A run whose one checkpoint is `step_000007`."""
    copy = tmp_path / "run"
    shutil.copytree(trained_run, copy, symlinks=True)
    return copy


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    replica = Replica()
    monkeypatch.setattr(Manager, "_replicas", replica)
    return replica


def commit(run: Path, step: int) -> Path:
    partial = checkpoints.begin(run / "checkpoints", step)
    shutil.copytree(run / "checkpoints" / "step_000007" / "adapter", partial / "adapter")
    return checkpoints.commit(partial, {"step": step, "version": step})


def managed(run: Path, gate: Gate | None = None, session: str = "one", **live: Any) -> Manager:
    """The manager of a service; call it in a running loop."""
    config = ServeConfig.model_validate({"run": run, "live": {"poll_seconds": 0.01, **live}})
    return Manager(config, resolve(run), gate, session)  # type: ignore[arg-type]


async def until(manager: Manager, condition: Callable[[Catalogue], bool]) -> Catalogue:
    deadline = time.monotonic() + 10
    while not condition(catalogue := await manager.catalogue()):
        assert time.monotonic() < deadline, catalogue
        await asyncio.sleep(0.01)
    return catalogue


def test_a_worse_checkpoint_stays_outside_the_gate_and_nothing_changes(run: Path, replica: Replica):
    async def follow() -> None:
        gate = Gate()
        gate.bad, _ = {"step_000009"}, gate.opened.set()
        manager = managed(run, gate)
        commit(run, 8)
        assert (await until(manager, lambda now: now.promoted == "step_000008")).refused == {}
        commit(run, 9)
        now = await until(manager, lambda now: "step_000009" in now.refused)
        assert now.refused["step_000009"] == "step_000009 did not pass the gate"
        assert (now.promoted, set(now.releases)) == ("step_000008", {"step_000007", "step_000008"})
        await asyncio.sleep(0.1)
        assert replica.loaded == {"step_000008"}
        assert {path.name[:11] for path in (run / "served").glob("step_*")} == {"step_000007", "step_000008"}

    asyncio.run(follow())


def test_a_rollback_does_not_wait_for_a_checkpoint_at_the_gate_nor_drop_it(run: Path, replica: Replica):
    async def roll_back() -> None:
        gate = Gate()
        gate.opened.set()
        manager = managed(run, gate)
        commit(run, 8)
        await until(manager, lambda now: now.promoted == "step_000008")
        gate.opened.clear()
        gate.reached.clear()
        commit(run, 9)
        await asyncio.wait_for(gate.reached.wait(), 10)
        back = await asyncio.wait_for(manager.roll_back(), 5)
        assert back.promoted == "step_000007"
        assert "step_000009" in replica.loaded
        gate.opened.set()
        now = await until(manager, lambda now: now.candidate == "step_000009")
        assert (now.promoted, now.on_hold) == ("step_000007", True)  # a rollback holds back what was under way
        assert now.releases["step_000009"].adapter.is_dir()  # type: ignore[union-attr]

    asyncio.run(roll_back())


def test_a_checkpoint_that_goes_away_while_it_is_looked_at_does_not_end_the_watch(
    run: Path, replica: Replica, monkeypatch: pytest.MonkeyPatch
):
    gone, troubles = commit(run, 6), [OSError("stale file handle")]
    real = Path.rglob

    def rglob(folder: Path, pattern: str) -> Any:
        if folder.name == "step_000009" and troubles:
            raise troubles.pop()
        if folder == gone:
            raise FileNotFoundError(folder)
        return real(folder, pattern)

    monkeypatch.setattr(Path, "rglob", rglob)
    assert Traces.of(gone) is None

    async def follow() -> None:
        manager = managed(run)
        commit(run, 9)
        await until(manager, lambda now: now.promoted == "step_000009")
        assert troubles == []

    asyncio.run(follow())


def test_a_pushed_link_is_the_checkpoint_that_it_points_at(run: Path, replica: Replica):
    async def push() -> None:
        manager = managed(run, follow=False)
        commit(run, 8)
        assert (await manager.push(run / "checkpoints" / "latest")).promoted == "step_000008"

    asyncio.run(push())


def test_a_copy_outlives_its_release_for_as_long_as_a_request_may_wait(run: Path, replica: Replica):
    async def swap() -> set[str]:
        manager = managed(run, follow=False)
        for step in (8, 9, 10, 11):
            await manager.push(commit(run, step))
        kept = {path.name[:11] for path in (run / "served").glob("step_*")}
        manager._patience = 0.0
        await manager.pin("step_000011")
        assert {path.name[:11] for path in (run / "served").glob("step_*")} == {"step_000010", "step_000011"}
        return kept

    assert asyncio.run(swap()) == {f"step_{step:06d}" for step in (7, 8, 9, 10, 11)}


def test_what_was_rolled_back_is_not_taken_again_by_a_manager_that_starts_anew(run: Path, replica: Replica):
    async def start_again() -> None:
        manager = managed(run)
        commit(run, 8)
        await until(manager, lambda now: now.promoted == "step_000008")
        await manager.roll_back()
        await manager.promote("step_000007")  # nothing is on hold any more
        for session in ("one", "two"):
            again = managed(run, session=session)
            await asyncio.sleep(0.2)
            assert (await again.catalogue()).promoted == "step_000007"
        commit(run, 9)
        await until(again, lambda now: now.promoted == "step_000009")

    asyncio.run(start_again())


def test_a_replica_that_does_not_answer_fails_no_order(run: Path, monkeypatch: pytest.MonkeyPatch):
    async def never(timeout_s: float, return_exceptions: bool) -> list[Any]:
        raise TimeoutError

    monkeypatch.setattr(
        Manager, "_replicas", SimpleNamespace(broadcast=lambda *_: SimpleNamespace(results_async=never))
    )

    async def order() -> Catalogue:
        return await managed(run, follow=False).pin("step_000007")

    assert asyncio.run(order()).pinned == {"step_000007"}
