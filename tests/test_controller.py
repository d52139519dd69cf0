"""The run controller over fake pools in one process: staleness, order, resume, and what it does with errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_pools import GROUP_SIZE, FakeLearners, FakeRewards, FakeRollouts, at_once, conduct, reward, settings, uneven

from actors.adapters import Published, Sent
from actors.controller import RunController, capacity
from actors.interfaces import CheckpointError, RewardError
from actors.mavic import EVENTS, _events_written
from actors.messages import Group, ScoredGroup, TrainingGroup, sampling_seed
from actors.pool import PoolError
from actors.progress import Progress, read
from dermo_ray import checkpoints, rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.ledger import check


def test_the_capacity_gate_is_the_smaller_of_concurrency_and_staleness() -> None:
    assert capacity(max_concurrent=8, running=0, max_staleness=0, version=0, batch=4, accepted=0) == 4
    assert capacity(max_concurrent=3, running=0, max_staleness=0, version=0, batch=4, accepted=0) == 3
    assert capacity(max_concurrent=8, running=1, max_staleness=0, version=0, batch=4, accepted=3) == 0
    assert capacity(max_concurrent=8, running=1, max_staleness=1, version=0, batch=4, accepted=3) == 4
    assert capacity(max_concurrent=8, running=0, max_staleness=0, version=1, batch=4, accepted=4) == 4


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("load_seconds", [0.0, 0.01])
def test_no_completion_is_older_than_allowed_however_long_groups_and_loads_take(
    max_staleness: int, seed: int, load_seconds: float, tmp_path: Path
) -> None:
    learner, rollout = FakeLearners(seconds=0.002), FakeRollouts(uneven(seed), load_seconds)
    config = settings(tmp_path, steps=10, max_staleness=max_staleness)
    reports = conduct(config, rollout, learner)
    assert max(learner.staleness) <= max_staleness
    assert min(learner.staleness) >= 0
    assert rollout.most <= config.rollout.max_concurrent
    assert [version for version, _ in reports] == list(range(1, 11))
    assert max(metrics["staleness/max"] for _, metrics in reports) == max(learner.staleness)


def test_a_straggler_is_trained_on_before_it_is_too_old(tmp_path: Path) -> None:
    learner = FakeLearners()
    conduct(settings(tmp_path, max_staleness=1), FakeRollouts(lambda index: 0.3 if index == 1 else 0.0), learner)
    assert max(learner.staleness) == 1
    assert sorted(index for batch in learner.indices for index in batch) == list(range(24))


def at_each_update(config: MavicConfig, rollout: FakeRollouts, look: Callable[[], bool]) -> list[bool]:
    """What `look` says when each update begins."""

    class Watching(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            seen.append(look())
            return await super().update(batch, step)

    seen: list[bool] = []
    conduct(config, rollout, Watching())
    return seen


def test_with_staleness_allowed_sampling_goes_on_while_the_learner_works(tmp_path: Path) -> None:
    def overlap(max_staleness: int) -> bool:
        rollout = FakeRollouts(lambda index: 0.01 if index % 8 > 3 else 0.0)
        config = settings(tmp_path / str(max_staleness), max_staleness=max_staleness)
        return any(at_each_update(config, rollout, lambda: rollout.running > 0))

    assert overlap(1)
    assert not overlap(0)


def test_with_staleness_allowed_the_learner_works_while_engines_load(tmp_path: Path) -> None:
    def overlap(max_staleness: int) -> bool:
        rollout = FakeRollouts(at_once, load_seconds=0.02)
        config = settings(tmp_path / str(max_staleness), max_staleness=max_staleness)
        return any(at_each_update(config, rollout, lambda: rollout.loading))

    assert overlap(1)
    assert not overlap(0)


def test_one_version_is_loaded_at_a_time_and_none_is_left_out(tmp_path: Path) -> None:
    class OneAtATime(FakeRollouts):
        async def load(self, weights: Published | Sent) -> None:
            assert not self.loading
            loaded.append(weights.version)
            await super().load(weights)

    loaded: list[int] = []
    conduct(settings(tmp_path, max_staleness=2), OneAtATime(at_once, load_seconds=0.01), FakeLearners())
    assert loaded == list(range(7))


class FailsAtThree(FakeLearners):
    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        if step == 3:
            raise RuntimeError("node lost")
        return await super().update(batch, step)


def latest(run: Path) -> Path:
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize("max_concurrent", [3, 16])
@pytest.mark.parametrize("checkpoint_every", [1, 2])
def test_every_prompt_is_trained_on_once_across_a_crash_and_a_resume(
    max_staleness: int, max_concurrent: int, checkpoint_every: int, tmp_path: Path
) -> None:
    rollout = {"group_size": GROUP_SIZE, "max_concurrent": max_concurrent}
    config = settings(tmp_path, max_staleness=max_staleness, rollout=rollout, checkpoint_every=checkpoint_every)
    before, after = FailsAtThree(seconds=0.01), FakeLearners(seconds=0.01)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(uneven(0)), before)
    progress = read(latest(tmp_path))
    assert progress.version == 3 - 3 % checkpoint_every
    first = progress.version + 1
    reports = conduct(config, FakeRollouts(uneven(1)), after, progress)
    assert [version for version, _ in reports] == list(range(first, 7))
    assert max(after.staleness) <= max_staleness
    trained = [index for batch in before.indices[: progress.version] + after.indices for index in batch]
    assert sorted(trained) == list(range(24))
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.steps, report.trained, report.resumes) == (6, 24, 1)
    assert report.undone == 4 * (3 - progress.version)


EPOCH = 5
"""Updates in an epoch of the five prompts that `conduct` has, one group each."""


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize("failing", [0, 1, EPOCH - 1, EPOCH, EPOCH + 1])
def test_a_run_goes_on_from_its_first_step_from_an_epochs_end_and_from_the_first_step_of_the_next(
    failing: int, max_staleness: int, tmp_path: Path
) -> None:
    class Fails(FakeLearners):
        async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
            if step == failing:
                raise RuntimeError("node lost")
            return await super().update(batch, step)

    config = settings(tmp_path, steps=2 * EPOCH, batch_groups=1, max_staleness=max_staleness)
    before, after = Fails(seconds=0.002), FakeLearners(seconds=0.002)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(uneven(0)), before)
    progress = read(checkpoints.latest(tmp_path / "checkpoints"))
    assert progress.version == failing
    conduct(config, FakeRollouts(uneven(1)), after, progress)
    assert before.indices + after.indices == [[index] for index in range(2 * EPOCH)]
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.steps, report.epochs, report.resumes, report.undone) == (2 * EPOCH, 2, 1, 0)


def test_groups_that_were_ready_are_trained_on_after_a_resume_and_not_sampled_again(tmp_path: Path) -> None:
    config = settings(tmp_path, max_staleness=2)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(at_once), FailsAtThree(seconds=0.01))
    progress = read(latest(tmp_path))
    ready = [scored.group.prompt.index for scored in progress.ready]
    assert ready
    rollout, learner = FakeRollouts(at_once), FakeLearners()
    conduct(config, rollout, learner, progress)
    assert not {index for index, _ in rollout.asked} & set(ready)
    trained = {training.scored.group.prompt.index: training.scored for batch in learner.batches for training in batch}
    assert [trained[index] for index in ready] == progress.ready


OF_TIME = ("seconds", "share/", "queue/", "samples_per_second", "tokens_per_second")
"""Metrics that differ from run to run."""


def test_a_synchronous_run_that_crashed_reports_the_same_numbers_as_one_that_did_not(tmp_path: Path) -> None:
    def numbers(reports: list[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
        kept = {version: dict(metrics) for version, metrics in reports}
        return {
            version: {name: value for name, value in metrics.items() if not name.startswith(OF_TIME)}
            for version, metrics in kept.items()
        }

    def constant(index: int) -> bool:
        return index % 5 == 0

    whole = settings(tmp_path / "whole", watch={"window": 4})
    expected = numbers(conduct(whole, FakeRollouts(uneven(0)), FakeLearners(), rewards=FakeRewards(constant)))
    crashed = settings(tmp_path / "crashed", watch={"window": 4}, checkpoint_every=2)
    reports: list[tuple[int, dict[str, float]]] = []
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(crashed, FakeRollouts(uneven(1)), FailsAtThree(), rewards=FakeRewards(constant), reports=reports)
    progress = read(latest(tmp_path / "crashed"))
    reports += conduct(crashed, FakeRollouts(uneven(2)), FakeLearners(), progress, FakeRewards(constant))
    assert [version for version, _ in reports] == [1, 2, 3, 3, 4, 5, 6]
    assert numbers(reports) == expected


def test_a_run_that_is_stopped_keeps_its_last_update_in_a_checkpoint_and_waits_for_no_group(tmp_path: Path) -> None:
    async def stop(controller: RunController) -> None:
        while rollout.running != 1 or rollout.asked[-1][0] != 15:
            await asyncio.sleep(0.001)
        await controller.stop("enough")

    config = settings(tmp_path, checkpoint_every=100)
    rollout = FakeRollouts(lambda index: 60.0 if index == 15 else 0.0)
    reports = conduct(config, rollout, FakeLearners(), conducted=stop)
    assert [version for version, _ in reports] == [1, 2, 3]
    progress = read(latest(tmp_path))
    assert (progress.version, progress.pending) == (3, [15])
    assert [scored.group.prompt.index for scored in progress.ready] == [12, 13, 14]
    conduct(config, FakeRollouts(at_once), FakeLearners(), progress)
    assert check(tmp_path).ok


def test_a_checkpoint_that_finds_the_disk_full_is_tried_again_and_the_one_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FullFor2(FakeLearners):
        tries = 0

        async def save(self, folder: Path) -> None:
            await super().save(folder)
            self.tries += 1
            if self.tries in (2, 3):
                Path("/dev/full").write_text("a device that has no room, ever")

    learner = FullFor2()
    seen = []

    async def watch(controller: RunController) -> None:
        while controller.version < 6:
            checkpoint = checkpoints.latest(tmp_path / "checkpoints")  # raises where it is not whole
            seen.append(checkpoint.name if checkpoint else "")
            await asyncio.sleep(0)

    conduct(settings(tmp_path), FakeRollouts(at_once), learner, conducted=watch)
    assert {"step_000001", "step_000004"} <= set(seen)
    assert not {"step_000002", "step_000003"} & set(seen)
    assert [record.message for record in caplog.records if "No space left on device" in record.message] == [
        f"the checkpoint of update {step} could not be written ([Errno 28] No space left on device); "
        "the one of update 1 stays, and the next update tries again"
        for step in (2, 3)
    ]
    assert not list((tmp_path / "checkpoints").glob(".step_*"))
    assert check(tmp_path).ok


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    class Full(FakeLearners):
        async def save(self, folder: Path) -> None:
            raise CheckpointError("learner rank 0 failed in save: the disk is full")

    with pytest.raises(CheckpointError, match="the disk is full"):
        conduct(settings(tmp_path), FakeRollouts(at_once), Full())


class Unscorable(FakeRewards):
    def __init__(self, indices: set[int]) -> None:
        super().__init__()
        self.indices = indices

    async def score(self, group: Group) -> ScoredGroup:
        if group.prompt.index in self.indices:
            raise RewardError(f"the group of prompt {group.prompt.index} was not scored: the term tone failed")
        return await super().score(group)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_groups_without_a_reward_are_given_up_as_far_as_allowed_and_stand_in_the_ledger(
    max_staleness: int, tmp_path: Path
) -> None:
    rewards = {"max_unscored": 3}
    config = settings(tmp_path, max_staleness=max_staleness, rewards=rewards)
    learner = FakeLearners()
    conduct(config, FakeRollouts(uneven(1)), learner, rewards=Unscorable({0, 9, 10}))
    assert sorted(index for batch in learner.indices for index in batch) == sorted({*range(27)} - {0, 9, 10})
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.trained, report.unscored) == (24, 3)
    with pytest.raises(RewardError, match="prompt 12 was not scored: the term tone failed"):
        conduct(settings(tmp_path / "another", rewards=rewards), FakeRollouts(at_once), FakeLearners(),
                rewards=Unscorable({0, 9, 10, 12}))  # fmt: skip


def test_groups_that_were_given_up_stay_so_across_a_resume(tmp_path: Path) -> None:
    config = settings(tmp_path, max_staleness=2, rewards={"max_unscored": 3}, checkpoint_every=2)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(at_once), FailsAtThree(), rewards=Unscorable({2, 13, 14}))
    progress = read(latest(tmp_path))
    conduct(config, FakeRollouts(at_once), FakeLearners(), progress, rewards=Unscorable({13, 14}))
    report = check(tmp_path)
    assert report.ok, report.problems
    assert (report.trained, report.unscored) == (24, 3)


def test_prompts_that_were_pending_are_sampled_first_and_with_the_seeds_they_had(tmp_path: Path) -> None:
    rollout = FakeRollouts(at_once)
    config = settings(tmp_path, steps=2)
    conduct(config, rollout, FakeLearners(), Progress(version=1, next_index=9, pending=[7, 4]))
    assert rollout.asked == [(index, sampling_seed(config.seed, index)) for index in (4, 7, 9, 10)]


def test_a_synchronous_run_trains_the_prompts_in_their_order(tmp_path: Path) -> None:
    learner = FakeLearners()
    conduct(settings(tmp_path), FakeRollouts(uneven(2)), learner)
    assert learner.indices == [list(range(start, start + 4)) for start in range(0, 24, 4)]


def test_the_record_of_rollouts_has_every_completion_with_its_version(tmp_path: Path) -> None:
    conduct(settings(tmp_path, steps=3), FakeRollouts(at_once), FakeLearners())
    rows = rollouts.read(tmp_path / "rollouts")
    assert len(rows) == 3 * 4 * GROUP_SIZE
    assert {(row.step, row.version) for row in rows} == {(0, 0), (1, 1), (2, 2)}


def test_a_run_stops_where_the_engines_do_not_serve_the_published_weights(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"update 0: engine and learner disagree by 0\.700 nats .*limit 0\.5"):
        conduct(settings(tmp_path), FakeRollouts(at_once), FakeLearners(gap=0.7))
    assert checkpoints.latest(tmp_path / "checkpoints") is None


def test_an_asynchronous_run_stops_for_it_too_by_its_tokens_of_the_learners_own_version(tmp_path: Path) -> None:
    class ApartOnceSomeAreStale(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            metrics = await super().update(batch, step)
            stale = any(training.scored.group.version < step for training in batch)
            return metrics | {"rollout_logprob_diff": 0.0, "engine_gap": 0.7 if stale else 0.0}

    learner = ApartOnceSomeAreStale()
    with pytest.raises(RuntimeError, match=r"update \d: engine and learner disagree by 0\.700 nats .*limit 0\.5"):
        conduct(settings(tmp_path, max_staleness=1), FakeRollouts(at_once), learner)
    assert max(learner.staleness) == 1


def test_disagreement_about_older_versions_is_no_error(tmp_path: Path) -> None:
    class ApartOnceStale(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            metrics = await super().update(batch, step)
            stale = any(training.scored.group.version < step for training in batch)
            return metrics | {"rollout_logprob_diff": 5.0 if stale else 0.0}

    learner = ApartOnceStale()
    conduct(settings(tmp_path, max_staleness=1), FakeRollouts(at_once), learner)
    assert max(learner.staleness) == 1


def fails(error: Exception, cause: Exception | None) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **options: Any) -> Any:
        raise error from cause

    return call


@pytest.mark.parametrize(
    ("pool", "method"),
    [
        ("rollout", "sample"),
        ("rollout", "load"),
        ("rewards", "score"),
        ("learner", "update"),
        ("learner", "publish"),
    ],
)
def test_the_first_error_of_any_pool_ends_the_run_with_its_cause(pool: str, method: str, tmp_path: Path) -> None:
    pools: dict[str, Any] = {"rollout": FakeRollouts(at_once), "rewards": FakeRewards(), "learner": FakeLearners()}
    error, cause = PoolError(f"{pool} worker 1 failed"), ValueError("the reason")
    setattr(pools[pool], method, fails(error, cause))
    with pytest.raises(PoolError, match=f"^{pool} worker 1 failed$") as caught:
        conduct(settings(tmp_path), pools["rollout"], pools["learner"], rewards=pools["rewards"])
    assert caught.value is error
    assert caught.value.__cause__ is cause


class GamedRewards(FakeRewards):
    """Consistency rises while morphology falls, up to update 8; from there on both stay."""

    async def score(self, group: Group) -> ScoredGroup:
        gain = 0.03 * min(8, group.prompt.index // 4)
        return ScoredGroup(
            group, [reward(0.5, consistency=0.3 + gain, morphology=0.7 - gain) for _ in group.completions]
        )


def test_an_alarm_of_the_watch_is_an_event_when_it_begins_and_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, steps=16, watch={"window": 5})
    with caplog.at_level("WARNING", logger="actors"), _events_written(tmp_path / EVENTS):
        reports = conduct(config, FakeRollouts(at_once), FakeLearners(), rewards=GamedRewards())
    alarms = [metrics["watch/alarm"] for _, metrics in reports]
    began, ended = alarms.index(1.0), len(alarms) - alarms[::-1].index(1.0)
    assert alarms == [0.0] * began + [1.0] * (ended - began) + [0.0] * (16 - ended)
    assert began == 4
    lines = [line for line in (tmp_path / EVENTS).read_text().splitlines() if "update" in line]
    assert [line.partition(" update ")[2].partition(" ")[0] for line in lines] == [f"{began + 1}:", f"{ended + 1}:"]
    assert "the policy may be gaming the concept model" in lines[0]
    assert "the alarm is over" in lines[1]


def test_an_alarm_that_was_told_is_not_told_again_by_the_run_that_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lines(steps: int, progress: Progress | None = None) -> list[str]:
        caplog.clear()
        config = settings(tmp_path, steps=steps, watch={"window": 5})
        conduct(config, FakeRollouts(at_once), FakeLearners(), progress, GamedRewards())
        return [message for message in caplog.messages if "alarm" in message]

    assert len(lines(6)) == 1
    assert lines(7, read(checkpoints.latest(tmp_path / "checkpoints"))) == []
