"""The run controller over fake pools in one process: staleness, order, resume, and what it does with errors."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.adapters import Adapter
from actors.controller import Progress, RunController, capacity, completion_rows, describe, with_advantages
from actors.messages import Group, Prompt, Sampled, Sampling, ScoredGroup, TrainingGroup, sampling_seed
from actors.pool import PoolError
from dermo_ray import checkpoints, rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
GROUP_SIZE = 2


def record(number: int) -> RLPrompt:
    return RLPrompt(
        id=f"p{number:03d}", image="a.png", source="s", group="g", prompt="<image>\nName", ground_truth=TRUTH
    )


def sampled(tokens: int = 3, finish_reason: str = "stop") -> Sampled:
    return Sampled(list(range(tokens)), [-0.5] * tokens, "text", finish_reason)


def reward(total: float, faults: tuple[str, ...] = (), **terms: float) -> Reward:
    return Reward(total, terms, faults, dict.fromkeys(terms, 1 / max(1, len(terms))), 1.0, frozenset())


def scored(index: int, totals: list[float], version: int = 0) -> ScoredGroup:
    group = Group(Prompt(index, record(index)), version, [7, 8], [sampled() for _ in totals])
    return ScoredGroup(group, [reward(total, format=total) for total in totals])


class FakeRollouts:
    """Stands for the rollout pool: a group takes `seconds(index)` and comes from the version loaded when it began."""

    def __init__(self, seconds: Callable[[int], float], checksum: str | None = None) -> None:
        self.seconds, self.checksum = seconds, checksum
        self.version = -1
        self.running = self.most = 0
        self.asked: list[tuple[int, int | None]] = []
        self.start_arguments: tuple[Any, ...] = ()

    async def call(self, method: str, prompt: Prompt, sampling: Sampling, timeout: float) -> Group:
        assert method == "sample"
        self.asked.append((prompt.index, sampling.seed))
        version = self.version
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds(prompt.index))
        self.running -= 1
        return Group(prompt, version, [7, 8], [sampled() for _ in range(sampling.n)])

    async def broadcast(self, method: str, adapter: Adapter, timeout: float) -> list[str]:
        assert method == "load"
        self.version = adapter.version
        return [adapter.checksum, self.checksum or adapter.checksum]


class FakeRewards:
    """Stands for the reward pool: completions earn 0, 1, 0, 1, ..."""

    async def call(self, method: str, group: Group, timeout: float) -> ScoredGroup:
        assert method == "score"
        return ScoredGroup(group, [reward(float(n % 2), format=1.0) for n in range(len(group.completions))])


class FakeLearners:
    """Stands for the learner pool: notes what it is given; `gap` is how far engine and learner are said to disagree."""

    def __init__(self, gap: float = 0.0, seconds: float = 0.0) -> None:
        self.gap, self.seconds = gap, seconds
        self.batches: list[list[TrainingGroup]] = []
        self.staleness: list[int] = []

    async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
        await asyncio.sleep(self.seconds)
        self.batches.append(batch)
        self.staleness += [step - training.scored.group.version for training in batch]
        return {"rollout_logprob_diff": self.gap, "loss": 0.0}

    async def publish(self, folder: Path, version: int) -> Adapter:
        await asyncio.sleep(self.seconds)
        return Adapter(version, folder / f"v{version:06d}", f"checksum {version}")

    async def save(self, folder: Path) -> None:
        await asyncio.sleep(self.seconds)
        (folder / "learner").mkdir()

    @property
    def indices(self) -> list[list[int]]:
        return [[training.scored.group.prompt.index for training in batch] for batch in self.batches]


def settings(run: Path, **values: Any) -> MavicConfig:
    common = {
        "run": run,
        "data": "data",
        "model": {"path": "model"},
        "steps": 6,
        "batch_groups": 4,
        "checkpoint_every": 1,
        "rollout": {"group_size": GROUP_SIZE, "max_concurrent": 8},
    }
    return MavicConfig.model_validate(common | values)


def conduct(
    config: MavicConfig,
    rollout: FakeRollouts,
    learner: FakeLearners,
    progress: Progress | None = None,
    rewards: FakeRewards | None = None,
) -> list[tuple[int, dict[str, float]]]:
    """Run to the end; what was reported."""
    reports: list[tuple[int, dict[str, float]]] = []
    order = PromptOrder([record(number) for number in range(5)], config.seed)

    async def run() -> None:
        pools: Any = (rollout, rewards or FakeRewards(), learner)
        controller = RunController(
            config,
            order,
            *pools,
            progress or Progress(),
            lambda version, metrics, _: reports.append((version, metrics)),
        )
        await asyncio.wait_for(controller.run(), timeout=30)

    asyncio.run(run())
    return reports


def at_once(index: int) -> float:
    return 0.0


def uneven(seed: int) -> Callable[[int], float]:
    """Up to 6 ms a group, and one in eight takes 60 ms."""
    return lambda index: (draw := random.Random(f"{seed} {index}")).random() * 0.006 + 0.06 * (draw.random() < 0.125)


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


def test_advantages_are_relative_to_a_group_and_stay_with_their_completions() -> None:
    batch = [scored(0, [0.0, 1.0, 2.0]), scored(1, [5.0, 5.0])]
    first, second = with_advantages(batch, "dr_grpo")
    assert first.advantages == pytest.approx([-1.0, 0.0, 1.0])
    assert second.advantages == pytest.approx([0.0, 0.0])
    assert (first.scored, second.scored) == (batch[0], batch[1])


def test_a_batch_is_described_by_rewards_terms_faults_lengths_and_staleness() -> None:
    cut = Sampled([1] * 9, [-1.5] * 9, "text", "length")
    group = Group(Prompt(0, record(0)), 3, [7], [sampled(3), cut])
    valid, faulty = reward(1.0, format=1.0, diagnosis=1.0), reward(0.5, ("invalid_json", "empty_block"), format=0.25)
    same = scored(1, [0.5, 0.5], version=4)
    metrics = describe([TrainingGroup(ScoredGroup(group, [valid, faulty]), [1, -1]), TrainingGroup(same, [0, 0])], 4)
    expected = {
        "reward/total": 0.625,
        "reward/format": (1.0 + 0.25 + 0.5 + 0.5) / 4,
        "reward/diagnosis": 1.0,  # over the one completion to which it applies
        "reward_std_in_group": 0.125,
        "format_valid": 0.75,
        "faults/invalid_json": 0.25,
        "faults/empty_block": 0.25,
        "gate": 1.0,
        "entropy": (9 * 1.5 + 9 * 0.5) / 18,
        "tokens": 18.0,
        "completion_tokens": 4.5,
        "truncated": 0.25,
        "staleness/mean": 0.5,
        "staleness/max": 1.0,
    }
    assert metrics == pytest.approx(expected)


def test_a_row_says_what_was_sampled_for_which_step_and_why_it_was_rewarded() -> None:
    rows = completion_rows(TrainingGroup(scored(4, [0.0, 1.0], version=2), [-1.0, 1.0]), step=3)
    assert [(row.sample, row.reward, row.advantage) for row in rows] == [(0, 0.0, -1.0), (1, 1.0, 1.0)]
    assert {(row.step, row.version, row.policy, row.prompt_id) for row in rows} == {(3, 2, "mavic", "p004")}
    assert rows[1].terms == {"format": 1.0}
    assert (rows[0].tokens, rows[0].logprob, rows[0].truth) == (3, -0.5, TRUTH)


def test_rewards_of_another_number_than_completions_are_refused() -> None:
    group = scored(0, [1.0, 0.0]).group
    with pytest.raises(ValueError, match="p000: 1 rewards for 2 completions"):
        ScoredGroup(group, [reward(1.0)])
