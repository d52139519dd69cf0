"""The learner pool over fake ranks: whatever happens to one, the updates are those of an undisturbed pool."""

import asyncio
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_hosts import FakeCluster, FakeHost
from fake_pools import settings

from actors.adapters import Adapter, Published, Sent
from actors.interfaces import CheckpointError
from actors.learner_pool import LearnerPool
from actors.pool import PoolError


class Rank:
    """A rank whose weights are the history of its updates; the ranks wait for each other as in a collective."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.number = world.started % world.ranks
        world.started += 1
        self.weights: list[Any] = []

    async def endpoint(self) -> tuple[str, int]:
        return "node", 1

    async def start(self, address: str, port: int, learner: Path | None) -> None:
        if learner is not None:
            self.weights = eval((learner / "weights").read_text())

    async def update(self, batch: list[Any], step: int) -> dict[str, float]:
        await self.world.happens("update", self.number, step)
        self.weights = [*self.weights, (step, batch)]
        return {"loss": float(step)}

    async def publish(self, folder: Path, version: int) -> Adapter:
        await self.world.happens("publish", self.number, version)
        return Adapter(version, folder, repr(self.weights))

    async def connect(self, engines: dict[str, str], each: int, address: str, port: int) -> None:
        await self.world.happens("connect", self.number, len(self.weights))
        self.engines = engines

    async def send(self, version: int) -> None:
        await self.world.happens("send", self.number, version)
        if self.number == 0:
            self.world.sent.append((version, sorted(self.engines)))

    async def save(self, folder: Path) -> None:
        await self.world.happens("save", self.number, len(self.weights))
        if self.number == 0:
            (folder / "learner").mkdir(parents=True)
            (folder / "learner" / "weights").write_text(repr(self.weights))


class World:
    """Two ranks, and what is to happen to them: (method, rank, step) -> an event, once."""

    ranks = 2

    def __init__(self, events: dict[tuple[str, int, int], str], always: bool = False) -> None:
        self.events, self.always = events, always
        self.started = 0
        self.sent: list[tuple[int, list[str]]] = []
        """What engines got from the ranks' memory, and which engines."""
        self.hosts = FakeCluster(lambda: Rank(self))

    async def happens(self, method: str, rank: int, step: int) -> None:
        event = self.events.get((method, rank, step))
        if event is not None and not self.always:
            del self.events[method, rank, step]
        host: FakeHost = self.hosts.hosts[-self.ranks + rank]
        if event == "die":
            host.die()
        elif event == "freeze":
            host.frozen = True
        elif event == "hang":
            await asyncio.sleep(60)
        elif event == "nan":
            raise RuntimeError(f"update {step}: loss {math.nan} and gradient norm {math.nan} must be finite")
        elif event == "engine":
            raise RuntimeError("rollout worker 2 (pid 7 on node7) did not answer receive within 3 s")
        elif event == "full":
            Path("/dev/full").write_text("a device that has no room, ever")
        elif event == "lose peer":  # what a rank says whose peer died, before anybody else tells of the death
            self.hosts.hosts[-self.ranks + 1 - rank].die()
            raise RuntimeError("connection closed by peer")


def train(folder: Path, world: World, steps: int = 6, checkpoint_every: int = 2) -> tuple[str, LearnerPool]:
    """Make updates and checkpoints; the checksum of the last adapter, and the pool."""
    learner = {"workers": 2, "timeout": 0.5, "heartbeat": 0.2}
    pool = LearnerPool(settings(folder, learner=learner), world.hosts, share=lambda batch: batch)

    async def run() -> str:
        try:
            await pool.open()
            for step in range(steps):
                assert (await pool.update([f"batch {step}"], step))["loss"] == step  # type: ignore[list-item]
                adapter = await pool.publish(folder, step + 1)
                if (step + 1) % checkpoint_every == 0:
                    checkpoint = folder / f"step_{step + 1}"
                    with suppress(CheckpointError):
                        await pool.save(checkpoint)
                        pool.saved(checkpoint)
            return adapter.checksum
        finally:
            pool.close()

    return asyncio.run(run()), pool


EXPECTED = repr([(step, [f"batch {step}"]) for step in range(6)])


@pytest.mark.parametrize("event", ["die", "freeze", "hang", "nan", "lose peer"])
@pytest.mark.parametrize(("method", "step"), [("update", 0), ("update", 3), ("publish", 4), ("publish", 5)])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_once_changes_nothing_that_is_learnt(
    event: str, method: str, step: int, rank: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checksum, pool = train(tmp_path, World({(method, rank, step): event}))
    assert checksum == EXPECTED
    assert pool.restarts == 1
    (message,) = [record.getMessage() for record in caplog.records]
    blamed = 1 - rank if event == "lose peer" else rank
    assert message.startswith(f"learner rank {blamed} (pid {blamed + 1} on node{blamed + 1}) ")
    good = "the beginning" if step < 2 else "step_2" if step < 4 or (method, step) == ("publish", 4) else "step_4"
    assert f"all learner ranks start anew from {good} and make" in message


def test_a_checkpoint_that_a_rank_cannot_write_costs_a_new_start_and_changes_nothing_that_is_learnt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checksum, pool = train(tmp_path, World({("save", 0, 4): "full"}))
    assert checksum == EXPECTED
    assert pool.restarts == 1
    assert sorted(path.parent.name for path in tmp_path.glob("step_*/learner")) == ["step_2", "step_6"]
    assert "learner rank 0 (pid 1 on node1) failed in save: [Errno 28] No space left on device" in caplog.text


def test_two_deaths_at_different_moments_are_two_restarts(tmp_path: Path) -> None:
    checksum, pool = train(tmp_path, World({("update", 1, 1): "die", ("publish", 0, 5): "die"}))
    assert checksum == EXPECTED
    assert pool.restarts == 2


def test_an_error_that_comes_again_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    message = r"learner rank 1 .*failed in update: update 3: loss nan and gradient norm nan must be finite \(2 times"
    with pytest.raises(PoolError, match=message):
        train(tmp_path, World({("update", 1, 3): "nan"}, always=True))


def test_a_rank_that_dies_in_the_same_call_again_and_again_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"learner rank 0 .*was lost in update: signal 9; its last lines: .* \(5 times"):
        train(tmp_path, World({("update", 0, 3): "die"}, always=True))


def test_a_rank_that_dies_while_the_pool_opens_is_started_again(tmp_path: Path) -> None:
    class DiesFirst(FakeCluster):
        def __call__(self, *_: Any) -> FakeHost:
            host = super().__call__()
            if host.number == 2:
                host.die()
            return host

    world = World({})
    world.hosts = DiesFirst(lambda: Rank(world))
    checksum, pool = train(tmp_path, world)
    assert (checksum, pool.restarts) == (EXPECTED, 0)
    assert len(world.hosts.hosts) == 4


def test_ranks_that_find_no_place_are_named_with_what_they_need(tmp_path: Path) -> None:
    world = World({})
    world.hosts = FakeCluster(lambda: Rank(world), room=1)
    with pytest.raises(PoolError, match=r"learner rank 1 found no place within 0\.5 s: each needs 1 CPU"):
        train(tmp_path, world)


def send(folder: Path, world: World, engines: list[set[str]]) -> tuple[list[Published | Sent], LearnerPool]:
    """Make an update and publish it for each entry of `engines`, which are those that take calls then."""
    learner = {"workers": 2, "timeout": 0.5, "heartbeat": 0.2}
    config = settings(folder, learner=learner, lora=None).model_copy(update={"transport": "nccl"})
    pool = LearnerPool(config, world.hosts, share=lambda batch: batch)

    async def run() -> list[Published | Sent]:
        try:
            await pool.open()
            found = []
            for step, there in enumerate(engines):
                await pool.update([f"batch {step}"], step)  # type: ignore[list-item]
                pool.engines = lambda there=there: dict.fromkeys(there, "actor")  # type: ignore[misc]
                found.append(await pool.publish(folder, step + 1))
            found.append(await pool.write(folder))
            return found
        finally:
            pool.close()

    return asyncio.run(run()), pool


def test_weights_are_sent_to_the_engines_that_are_there_and_written_for_those_that_come(tmp_path: Path) -> None:
    world = World({})
    published, pool = send(tmp_path, world, [{"a"}, {"a"}, {"a", "b"}, {"b"}])
    assert world.sent == [(1, ["a"]), (2, ["a"]), (3, ["a", "b"]), (4, ["b"])]
    written = Adapter(4, tmp_path, repr([(step, [f"batch {step}"]) for step in range(4)]))
    assert published == [*map(Sent, range(1, 5)), written]
    assert pool.restarts == 0


@pytest.mark.parametrize(("method", "step"), [("connect", 1), ("send", 2)])
@pytest.mark.parametrize("event", ["engine", "die", "hang"])
def test_a_transfer_that_breaks_off_is_made_up_for_with_files(
    event: str, method: str, step: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World({(method, 0, step): event})
    published, pool = send(tmp_path, world, [{"a"}] * 4)
    weights = {n: repr([(step, [f"batch {step}"]) for step in range(n)]) for n in (step, 4)}
    expected: list[Published | Sent] = [*map(Sent, range(1, 5)), Adapter(4, tmp_path, weights[4])]
    expected[step - 1] = Adapter(step, tmp_path, weights[step])
    assert published == expected
    assert pool.restarts == 1
    if event == "engine":
        assert f"policy version {step} is written, for it could not be sent: learner rank 0" in caplog.text
        assert "rollout worker 2 (pid 7 on node7) did not answer receive" in caplog.text


def test_two_transfers_in_a_row_that_break_off_end_the_run_by_the_engines_name(tmp_path: Path) -> None:
    world = World({("send", 0, 2): "engine", ("send", 0, 3): "engine"})
    with pytest.raises(PoolError, match=r"rollout worker 2 \(pid 7 on node7\) did not answer receive"):
        send(tmp_path, world, [{"a"}] * 4)
    assert world.sent == [(1, ["a"])]
