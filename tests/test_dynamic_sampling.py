"""Dynamic sampling in the run controller, over fake pools: refill, its bound, staleness, the record, and resuming."""

import random
from collections import Counter
from pathlib import Path

import pytest
from fake_pools import FakeLearners, FakeRewards, FakeRollouts, at_once, conduct, record, settings, uneven

from actors.controller import Progress
from actors.messages import TrainingGroup
from dermo_ray import checkpoints, rollouts
from dermo_ray.data.prompts import PromptOrder

GROUP_SIZE = 2
DYNAMIC = {"dynamic_sampling": True, "max_refill": 3}


def some(index: int) -> bool:
    """Two groups in five are constant."""
    return random.Random(f"constant {index}").random() < 0.4


def trained(learner: FakeLearners) -> list[int]:
    return [index for batch in learner.indices for index in batch]


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_constant_groups_are_replaced_and_no_completion_is_older_than_allowed(
    max_staleness: int, seed: int, tmp_path: Path
) -> None:
    learner, rollout = FakeLearners(seconds=0.002), FakeRollouts(uneven(seed))
    config = settings(tmp_path, steps=8, max_staleness=max_staleness, algorithm=DYNAMIC)
    reports = conduct(config, rollout, learner, rewards=FakeRewards(some))
    assert [len(batch) for batch in learner.indices] == [4] * 8
    assert trained(learner) == [index for index in range(200) if not some(index)][:32]
    assert max(learner.staleness) <= max_staleness
    assert rollout.most <= config.rollout.max_concurrent
    constant_before_the_last = sum(some(index) for index in range(trained(learner)[-1]))
    assert sum(metrics["dropped_groups"] for _, metrics in reports) == constant_before_the_last


def test_prompts_are_asked_for_no_sooner_and_no_more_than_needed(tmp_path: Path) -> None:
    rollout, learner = FakeRollouts(uneven(5)), FakeLearners()
    conduct(settings(tmp_path, algorithm=DYNAMIC), rollout, learner, rewards=FakeRewards(some))
    assert sorted(index for index, _ in rollout.asked) == list(range(trained(learner)[-1] + 1))


def test_the_refill_is_bounded_where_nothing_varies(tmp_path: Path) -> None:
    learner, rollout = FakeLearners(), FakeRollouts(at_once)
    config = settings(tmp_path, steps=2, algorithm=DYNAMIC)
    reports = conduct(config, rollout, learner, rewards=FakeRewards(lambda index: True))
    assert learner.indices == [[12, 13, 14, 15], [28, 29, 30, 31]]
    assert [metrics["dropped_groups"] for _, metrics in reports] == [12, 12]
    assert [metrics["watch/constant_groups"] for _, metrics in reports] == [1, 1]
    assert {value for batch in learner.batches for group in batch for value in group.advantages} == {0.0}


def test_without_dynamic_sampling_constant_groups_are_trained_on_and_counted(tmp_path: Path) -> None:
    learner = FakeLearners()
    reports = conduct(settings(tmp_path), FakeRollouts(at_once), learner, rewards=FakeRewards(lambda index: index < 2))
    assert trained(learner) == list(range(24))
    assert [metrics["watch/constant_groups"] for _, metrics in reports] == [0.5, 0, 0, 0, 0, 0]
    assert "dropped_groups" not in reports[0][1]


def test_a_synchronous_run_drops_the_same_groups_whatever_takes_long(tmp_path: Path) -> None:
    def batches(seed: int) -> list[list[int]]:
        learner = FakeLearners()
        config = settings(tmp_path / str(seed), algorithm={"dynamic_sampling": True, "max_refill": 1})
        often = FakeRewards(lambda index: random.Random(f"often {index}").random() < 0.7)
        conduct(config, FakeRollouts(uneven(seed)), learner, rewards=often)
        return learner.indices

    first = batches(0)
    assert any(
        random.Random(f"often {index}").random() < 0.7 for batch in first for index in batch
    )  # bound was reached
    assert [batches(seed) for seed in (1, 2)] == [first, first]


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_every_prompt_is_trained_on_or_recorded_as_dropped_once_across_a_crash_and_a_resume(
    max_staleness: int, tmp_path: Path
) -> None:
    class FailsLater(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            if step == 3:
                raise RuntimeError("node lost")
            return await super().update(batch, step)

    config = settings(tmp_path, max_staleness=max_staleness, algorithm=DYNAMIC)
    before, after = FailsLater(seconds=0.01), FakeLearners(seconds=0.01)
    with pytest.raises(RuntimeError, match="node lost"):
        conduct(config, FakeRollouts(uneven(0)), before, rewards=FakeRewards(some))
    checkpoint = checkpoints.latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    state = checkpoints.read_state(checkpoint)
    progress = Progress(state["version"], state["next_index"], state["pending"])
    conduct(config, FakeRollouts(uneven(1)), after, progress, FakeRewards(some))
    assert max(after.staleness) <= max_staleness
    both = trained(before) + trained(after)
    assert both == [index for index in range(200) if not some(index)][:24]

    rows = rollouts.read(tmp_path / "rollouts")
    order = PromptOrder([record(number) for number in range(5)], config.seed)
    shown = Counter(row.prompt_id for row in rows)
    assert shown == Counter(order[index].id for index in range(both[-1] + 1) for _ in range(GROUP_SIZE))
    assert Counter(row.prompt_id for row in rows if row.advantage is None) == Counter(
        order[index].id for index in range(both[-1]) if some(index) for _ in range(GROUP_SIZE)
    )


def test_the_divergence_in_the_reward_comes_from_the_learners(tmp_path: Path) -> None:
    learner = FakeLearners()
    algorithm = {"estimator": "dr_grpo", "kl_coefficient": 0.1, "kl_place": "reward"}
    reports = conduct(settings(tmp_path, steps=1, algorithm=algorithm), FakeRollouts(at_once), learner)
    # rewards 0 and 1, divergences 0, 1, 2, ...: each group's second completion leads by 1 - 0.1
    assert [value for group in learner.batches[0] for value in group.advantages] == pytest.approx([-0.45, 0.45] * 4)
    assert reports[0][1]["kl_per_completion"] == pytest.approx(3.5)


def test_a_penalty_for_length_is_reported_and_left_out_of_the_reward(tmp_path: Path) -> None:
    rollout = {"group_size": GROUP_SIZE, "max_concurrent": 8, "max_tokens": 4}
    # completions of 3 tokens are halfway
    algorithm = {"truncated": "penalise", "overlong_penalty": 0.4, "overlong_share": 0.5}
    config = settings(tmp_path, steps=1, rollout=rollout, algorithm=algorithm)
    reports = conduct(config, FakeRollouts(at_once), FakeLearners())
    assert reports[0][1]["overlong_penalty"] == pytest.approx(0.2)
    assert reports[0][1]["reward/total"] == 0.5
