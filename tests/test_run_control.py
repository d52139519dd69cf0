"""What the run controller does beside training, over fake pools.

Accounts of time, validations, early stopping, the stop at anomalies, and runs that leave a pool out.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_pools import (
    GROUP_SIZE,
    FakeLearners,
    FakeRewards,
    FakeRollouts,
    at_once,
    conduct,
    record,
    reward,
    settings,
    uneven,
)

from actors.accounts import RunAccounts
from actors.adapters import Published
from actors.controller import ANOMALIES, AnomalyError
from actors.interfaces import CheckpointError
from actors.messages import Group, Prompt, Sampling, ScoredGroup, TrainingGroup
from actors.progress import Progress
from actors.progress import read as read_progress
from actors.replay import NoLearners
from actors.validation import VALIDATION, heldout_prompts
from dermo_ray import checkpoints, rollouts
from dermo_ray.early_stopping import Best

HELDOUT = [record(number) for number in range(8)]


class TellingRollouts(FakeRollouts):
    """Tells the accounts whether it is at work, as a pool does."""

    def __init__(self, seconds: Any, accounts: RunAccounts) -> None:
        super().__init__(seconds)
        self.accounts = accounts
        self.tokens = 0.0

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        self.accounts.rollout(busy=1.0)
        group = await super().sample(prompt, sampling, adapter)
        self.accounts.rollout(busy=float(self.running > 0))
        self.tokens += sum(len(completion.token_ids) for completion in group.completions)
        return group


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_busy_time_and_named_waits_add_up_to_wall_time(max_staleness: int, tmp_path: Path) -> None:
    accounts, ends = RunAccounts(), []
    close = accounts.close
    accounts.close = lambda: ends.append(time.monotonic()) or close()  # type: ignore[method-assign, func-returns-value]
    rollout = TellingRollouts(uneven(1), accounts)
    accounts.count_tokens = lambda: {"worker 1": rollout.tokens}
    config = settings(tmp_path, max_staleness=max_staleness)
    metrics = [m for _, m in conduct(config, rollout, FakeLearners(seconds=0.01), accounts=accounts)]
    wall = ends[-1] - ends[0]
    for pool in ("rollout", "reward", "learner"):
        shares = [{k: v for k, v in m.items() if k.startswith(f"share/{pool}/")} for m in metrics]
        assert all(sum(of_step.values()) == pytest.approx(1.0) for of_step in shares)
        spent = sum(sum(of.values()) * m["seconds/step"] for of, m in zip(shares[1:], metrics[1:], strict=True))
        assert spent == pytest.approx(wall, rel=0.02)
    assert all(m["share/learner/busy"] > 0 for m in metrics)
    if max_staleness == 0:  # both take turns
        assert all(m["share/rollout/busy"] > 0 for m in metrics)
        assert all(m["share/rollout/staleness"] > 0 for m in metrics[:-1])
    assert all(m["tokens_per_second/worker 1"] >= 0 for m in metrics)
    assert sum(m["tokens_per_second/worker 1"] * m["seconds/step"] for m in metrics) == pytest.approx(rollout.tokens)
    assert all(m["queue/ready"] >= 0 and m["queue/sampling"] <= config.rollout.max_concurrent for m in metrics)


def test_learners_wait_for_weights_only_where_they_have_no_batch_meanwhile(tmp_path: Path) -> None:
    def waits(max_staleness: int) -> float:
        rollout = FakeRollouts(lambda index: 0.001, load_seconds=0.03)
        config = settings(tmp_path / str(max_staleness), max_staleness=max_staleness)
        reports = conduct(config, rollout, FakeLearners(seconds=0.06), accounts=RunAccounts())
        return sum(metrics.get("share/learner/weights", 0.0) for _, metrics in reports[1:-1])

    assert waits(0) > 0.5
    assert waits(1) < 0.1


def test_the_ages_of_tokens_are_shares_that_add_up(tmp_path: Path) -> None:
    reports = conduct(settings(tmp_path, max_staleness=1), FakeRollouts(uneven(0)), FakeLearners(seconds=0.01))
    for _, metrics in reports:
        ages = {name: share for name, share in metrics.items() if name.startswith("staleness/age_")}
        assert sum(ages.values()) == pytest.approx(1.0)
        assert ages.keys() <= {"staleness/age_0", "staleness/age_1"}
    assert any(metrics.get("staleness/age_1", 0) > 0 for _, metrics in reports)


class RewardsByVersion(FakeRewards):
    """Held-out completions earn what their version is worth."""

    def __init__(self, worth: Sequence[float]) -> None:
        super().__init__()
        self.worth = worth

    async def score(self, group: Group) -> ScoredGroup:
        if group.prompt.index >= 0:
            return await super().score(group)
        return ScoredGroup(group, [reward(self.worth[group.version], format=1.0) for _ in group.completions])


def validating(run: Path, **values: Any) -> Any:
    return settings(run, **({"validation": {"every": 2, "prompts": 3, "samples": 2}} | values))


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_held_out_prompts_are_measured_beside_the_training(max_staleness: int, tmp_path: Path) -> None:
    config = validating(tmp_path, max_staleness=max_staleness)
    prompts = heldout_prompts(HELDOUT, config)
    rollout, learner = FakeRollouts(uneven(3)), FakeLearners(seconds=0.01)
    worth = [0.1, 0, 0.5, 0, 0.3, 0, 0.4]
    reports = conduct(config, rollout, learner, rewards=RewardsByVersion(worth), heldout=prompts)
    measured = {m["validation/version"]: m["validation/reward"] for _, m in reports if "validation/version" in m}
    assert measured == pytest.approx({0: 0.1, 2: 0.5, 4: 0.3, 6: 0.4})
    assert reports[-1][1]["validation/version"] == 6  # the last is waited for
    assert sorted(index for batch in learner.indices for index in batch) == list(range(24))  # training went on as ever
    asked = [(index, seed) for index, seed in rollout.asked if index < 0]
    assert asked[:3] == asked[3:6] == asked[6:9] == asked[9:]  # the same prompts and seeds every time
    best = tmp_path / "checkpoints" / checkpoints.BEST
    assert best.resolve().name == "step_000002"
    assert checkpoints.latest(tmp_path / "checkpoints") == (tmp_path / "checkpoints/step_000006").resolve()
    checkpoints.verify(best.resolve())  # three newer ones are kept beside it
    rows = rollouts.read(tmp_path / VALIDATION)
    assert {(row.step, row.version) for row in rows} == {(rollouts.EVALUATION, version) for version in (0, 2, 4, 6)}
    assert len(rows) == 4 * 3 * 2


def test_a_run_stops_early_with_a_checkpoint_once_patience_is_at_its_end(tmp_path: Path) -> None:
    config = validating(tmp_path, steps=40, validation={"every": 1, "prompts": 2, "samples": 1, "patience": 3})
    worth = [0.1, 0.2, 0.6, *[0.5] * 40]
    learner = FakeLearners()
    reports = conduct(
        config,
        FakeRollouts(at_once),
        learner,
        rewards=RewardsByVersion(worth),
        heldout=heldout_prompts(HELDOUT, config),
    )
    last = reports[-1][0]
    assert 5 <= last < 10  # the third validation without a gain is that of version 5
    checkpoint = checkpoints.latest(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoints.read_state(checkpoint)["version"] == last
    assert (tmp_path / "checkpoints" / checkpoints.BEST).resolve().name == "step_000002"


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_stopped_early_makes_no_update_more_when_it_is_started_again(every: int, tmp_path: Path) -> None:
    validation = {"every": every, "prompts": 2, "samples": 1, "patience": 2}
    config = validating(tmp_path, steps=40, validation=validation)
    prompts, rewards = heldout_prompts(HELDOUT, config), RewardsByVersion([0.6, *[0.5] * 40])
    last = conduct(config, FakeRollouts(at_once), FakeLearners(), rewards=rewards, heldout=prompts)[-1][0]
    assert last < 10
    for _ in range(2):
        checkpoint = checkpoints.latest(tmp_path / "checkpoints")
        again = FakeLearners()
        progress = read_progress(checkpoint)
        assert conduct(config, FakeRollouts(at_once), again, progress, rewards, heldout=prompts) == []
        assert again.batches == []
    patient = validating(tmp_path, steps=last + 2, validation=validation | {"patience": 20})
    progress = read_progress(checkpoint)
    assert len(conduct(patient, FakeRollouts(at_once), FakeLearners(), progress, rewards, heldout=prompts)) == 2


def test_a_version_whose_checkpoint_could_not_be_written_is_not_the_best(tmp_path: Path) -> None:
    class FullOnce(FakeLearners):
        async def save(self, folder: Path) -> None:
            if len(self.batches) == 2:
                raise CheckpointError("the disk is full")
            await super().save(folder)

    config = validating(tmp_path)
    prompts, rewards = heldout_prompts(HELDOUT, config), RewardsByVersion([0.1, 0, 0.9, 0, 0.5, 0, 0.4])
    conduct(config, FakeRollouts(at_once), FullOnce(), rewards=rewards, heldout=prompts)
    assert not (tmp_path / "checkpoints/step_000002").exists()
    assert (tmp_path / "checkpoints" / checkpoints.BEST).resolve().name == "step_000004"
    assert checkpoints.read_state((tmp_path / "checkpoints/latest").resolve())["best"]["version"] == 4


def test_a_resumed_run_remembers_its_best_validation(tmp_path: Path) -> None:
    worth = [0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6]
    config = validating(tmp_path, steps=4)
    prompts = heldout_prompts(HELDOUT, config)
    conduct(config, FakeRollouts(at_once), FakeLearners(), rewards=RewardsByVersion(worth), heldout=prompts)
    checkpoint = checkpoints.latest(tmp_path / "checkpoints")
    progress = read_progress(checkpoint)
    assert progress.best == Best(version=2, reward=0.9, without_gain=0, last=2)  # version 4 was being measured
    longer = validating(tmp_path, steps=6)
    conduct(longer, FakeRollouts(at_once), FakeLearners(), progress, RewardsByVersion(worth), heldout=prompts)
    state = checkpoints.read_state((tmp_path / "checkpoints/latest").resolve())
    assert state["best"]["version"] == 2
    assert (tmp_path / "checkpoints" / checkpoints.BEST).resolve().name == "step_000002"


def test_an_error_in_a_validation_ends_the_run(tmp_path: Path) -> None:
    class FailsHeldOut(FakeRollouts):
        async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
            if prompt.index < 0:
                raise RuntimeError("engine gone")
            return await super().sample(prompt, sampling, adapter)

    config = validating(tmp_path)
    with pytest.raises(RuntimeError, match="engine gone"):
        conduct(config, FailsHeldOut(at_once), FakeLearners(), heldout=heldout_prompts(HELDOUT, config))


class NormsOf(FakeLearners):
    """Reports the gradient's norms that it was given."""

    def __init__(self, norms: Sequence[float]) -> None:
        super().__init__()
        self.norms = norms

    async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
        return await super().update(batch, step) | {"grad_norm": self.norms[step]}


def test_an_anomaly_stops_the_run_before_it_is_published_and_leaves_its_batch(tmp_path: Path) -> None:
    config = settings(tmp_path, anomaly={"window": 3, "grad_norm_factor": 10})
    rollout, learner = FakeRollouts(at_once), NormsOf([1.0, 2.0, 1.0, 1.5, 80.0, 1.0])
    with pytest.raises(AnomalyError, match=r"update 4: the gradient's norm 80 is more than 10 times the median 1\.5"):
        conduct(config, rollout, learner)
    assert rollout.version == 4  # the policy before the update
    rows = rollouts.read(tmp_path / ANOMALIES)
    assert len(rows) == 4 * GROUP_SIZE
    assert all(row.step == 4 and row.advantage is not None and row.token_ids is not None for row in rows)
    assert json.loads((tmp_path / ANOMALIES / "step_000004.json").read_text())["grad_norm"] == 80.0
    assert (tmp_path / "checkpoints/latest").resolve().name == "step_000004"


def test_an_update_that_fails_leaves_its_batch_too(tmp_path: Path) -> None:
    class NotFinite(FakeLearners):
        async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
            raise RuntimeError("loss nan must be finite")

    with pytest.raises(RuntimeError, match="loss nan"):
        conduct(settings(tmp_path), FakeRollouts(at_once), NotFinite())
    assert len(rollouts.read(tmp_path / ANOMALIES)) == 4 * GROUP_SIZE


def test_without_learners_groups_are_sampled_scored_and_recorded(tmp_path: Path) -> None:
    rollout, learner = FakeRollouts(uneven(2)), NoLearners()
    rollout.version = 0
    reports = conduct(settings(tmp_path, mode="rollout_only"), rollout, learner)  # type: ignore[arg-type]
    assert [version for version, _ in reports] == [1, 2, 3, 4, 5, 6]
    rows = rollouts.read(tmp_path / "rollouts")
    assert len(rows) == 24 * GROUP_SIZE
    assert {row.version for row in rows} == {0}
    assert "loss" not in reports[0][1]
    assert {metrics["staleness/max"] for _, metrics in reports} == {0.0}  # nothing newer is there


def test_whole_weights_are_validated_before_the_next_are_published(tmp_path: Path) -> None:
    class Slow(FakeRollouts):
        async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
            assert adapter is None
            group = await super().sample(prompt, sampling, adapter)
            await asyncio.sleep(0.02 if prompt.index < 0 else 0)
            return Group(group.prompt, self.version, group.prompt_ids, group.completions)

    class Sends(FakeLearners):
        async def publish(self, folder: Path, version: int) -> Any:
            from actors.adapters import FullWeights

            return FullWeights(version, folder / f"v{version:06d}", "checksum")

    config = validating(tmp_path, lora=None, steps=4, max_staleness=1)
    reports = conduct(config, Slow(at_once), Sends(), heldout=heldout_prompts(HELDOUT, config))
    counted = [metrics["validation/completions"] for _, metrics in reports if "validation/version" in metrics]
    assert counted == [6, 6, 6]


def test_progress_of_a_new_run_has_no_best() -> None:
    assert Progress().best == Best()
