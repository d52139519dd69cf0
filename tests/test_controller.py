"""The run controller over fake pools in one process: staleness, order, resume, and what it does with errors."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_pools import GROUP_SIZE, FakeLearners, FakeRewards, FakeRollouts, at_once, conduct, settings, uneven

from actors.controller import Progress, capacity
from actors.messages import TrainingGroup, sampling_seed
from actors.pool import PoolError
from dermo_ray import checkpoints, rollouts


def test_the_capacity_gate_is_the_smaller_of_concurrency_and_staleness() -> None:
    assert capacity(max_concurrent=8, running=0, max_staleness=0, version=0, batch=4, accepted=0) == 4
    assert capacity(max_concurrent=3, running=0, max_staleness=0, version=0, batch=4, accepted=0) == 3
    assert capacity(max_concurrent=8, running=1, max_staleness=0, version=0, batch=4, accepted=3) == 0
    assert capacity(max_concurrent=8, running=1, max_staleness=1, version=0, batch=4, accepted=3) == 4
    assert capacity(max_concurrent=8, running=0, max_staleness=0, version=1, batch=4, accepted=4) == 4


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_no_completion_is_older_than_allowed_however_long_groups_take(
    max_staleness: int, seed: int, tmp_path: Path
) -> None:
    learner, rollout = FakeLearners(seconds=0.002), FakeRollouts(uneven(seed))
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


def test_with_staleness_allowed_sampling_goes_on_while_the_learner_works(tmp_path: Path) -> None:
    def overlap(max_staleness: int) -> bool:
        class Watching(FakeLearners):
            async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
                seen.append(rollout.running > 0)
                return await super().update(batch, step)

        seen: list[bool] = []
        rollout = FakeRollouts(lambda index: 0.01 if index % 8 > 3 else 0.0)
        conduct(settings(tmp_path / str(max_staleness), max_staleness=max_staleness), rollout, Watching())
        return any(seen)

    assert overlap(1)
    assert not overlap(0)


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize("max_concurrent", [3, 16])
def test_every_prompt_is_trained_on_once_across_a_crash_and_a_resume(
    max_staleness: int, max_concurrent: int, tmp_path: Path
) -> None:
    class FailsLater(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            if step == 3:
                raise RuntimeError("node lost")
            return await super().update(batch, step)

    rollout = {"group_size": GROUP_SIZE, "max_concurrent": max_concurrent}
    config = settings(tmp_path, max_staleness=max_staleness, rollout=rollout)
    before, after = FailsLater(seconds=0.01), FakeLearners(seconds=0.01)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(uneven(0)), before)
    checkpoint = checkpoints.latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    state = checkpoints.read_state(checkpoint)
    assert state["step"] == state["version"] == 3
    reports = conduct(
        config,
        FakeRollouts(uneven(1)),
        after,
        Progress(state["version"], state["next_index"], state["pending"]),
    )
    assert [version for version, _ in reports] == [4, 5, 6]
    assert max(after.staleness) <= max_staleness
    trained = [index for batch in before.indices + after.indices for index in batch]
    assert sorted(trained) == list(range(24))


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


def test_new_workers_start_with_the_newest_adapter(tmp_path: Path) -> None:
    rollout = FakeRollouts(at_once)
    conduct(settings(tmp_path, steps=3), rollout, FakeLearners())
    assert [adapter.version for adapter in rollout.start_arguments] == [3]


def test_a_run_stops_where_the_engines_do_not_serve_the_published_weights(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"update 0: engine and learner disagree by 0\.700 nats .*limit 0\.5"):
        conduct(settings(tmp_path), FakeRollouts(at_once), FakeLearners(gap=0.7))
    assert checkpoints.latest(tmp_path / "checkpoints") is None


def test_disagreement_about_older_versions_is_no_error(tmp_path: Path) -> None:
    class ApartOnceStale(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            metrics = await super().update(batch, step)
            stale = any(training.scored.group.version < step for training in batch)
            return metrics | {"rollout_logprob_diff": 5.0 if stale else 0.0}

    learner = ApartOnceStale()
    conduct(settings(tmp_path, max_staleness=1), FakeRollouts(at_once), learner)
    assert max(learner.staleness) == 1


def test_a_worker_that_loaded_another_adapter_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="a rollout worker loaded some other as policy version 0"):
        conduct(settings(tmp_path), FakeRollouts(at_once, checksum="some other"), FakeLearners())


def fails(error: Exception, cause: Exception | None) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **options: Any) -> Any:
        raise error from cause

    return call


@pytest.mark.parametrize(("pool", "method"), [("rollout", "call"), ("rewards", "call"), ("learner", "update")])
def test_the_first_error_of_any_pool_ends_the_run_with_its_cause(pool: str, method: str, tmp_path: Path) -> None:
    pools: dict[str, Any] = {"rollout": FakeRollouts(at_once), "rewards": FakeRewards(), "learner": FakeLearners()}
    error, cause = PoolError(f"{pool} worker 1 failed"), ValueError("the reason")
    setattr(pools[pool], method, fails(error, cause))
    with pytest.raises(PoolError, match=f"^{pool} worker 1 failed$") as caught:
        conduct(settings(tmp_path), pools["rollout"], pools["learner"], rewards=pools["rewards"])
    assert caught.value is error
    assert caught.value.__cause__ is cause
