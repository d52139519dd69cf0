"""The learners: one update that is the same however it is dealt out to passes and ranks."""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import learner_cases
import pytest
import ray
import torch
import torch.distributed as dist
from learner_cases import apart, drawn_images, gap_of_updates, plain_descent, settings, uneven_batch, weights
from ray_nodes import free_port
from torch import Tensor, nn

from actors import learner as learners
from actors.deepspeed_engine import ShardedTrainer, join_ranks
from actors.images import read_images, store_images
from actors.learner import LearnerRank
from actors.learner_pool import LearnerPool
from actors.messages import ScoredGroup, TrainingGroup
from actors.pieces import tokens
from actors.pool import PoolError
from dermo_ray.config.algorithm import PRESETS, AlgorithmSettings
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.training import OptimizerSettings, ShardingSettings
from dermo_ray.models.batches import TokenSequence, collate, encode_images
from dermo_ray.models.chat import banned_token_ids, load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_images(tmp_path_factory.mktemp("learner-data"))


@pytest.fixture(scope="module")
def batch(tiny_model: Path, data: Path) -> list[TrainingGroup]:
    return uneven_batch(tiny_model, data)


@pytest.fixture(scope="module")
def one_rank() -> Iterator[Callable[[MavicConfig], LearnerRank]]:
    """Starts a rank that is alone, in this process, where DeepSpeed can't do with more than one process group."""
    address, port = "127.0.0.1", free_port()
    join_ranks(0, 1, address, port, on_gpu=False, timeout=60)

    def start(config: MavicConfig) -> LearnerRank:
        rank = LearnerRank(config, 0)
        rank.start(address, port, learner=None)
        return rank

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.learner.join_ranks", lambda *_, **__: None)
        yield start
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, float], Path, Path]:
    """One update of the whole batch in one pass of one rank: its metrics, and the adapters before and after it."""
    folder = tmp_path_factory.mktemp("alone")
    rank = one_rank(settings(tiny_model, data))
    before = rank.publish(folder, 0)
    metrics = rank.update(batch, 0)
    after = rank.publish(folder, 1)
    assert before is not None
    assert after is not None
    return metrics, before.path, after.path


def test_an_update_changes_the_adapter_and_reports_what_it_did(
    alone: tuple[dict[str, float], Path, Path], batch: list[TrainingGroup]
) -> None:
    metrics, before, after = alone
    assert apart(weights(before), weights(after)) > 1e-4
    completions = [completion for training in batch for completion in training.scored.group.completions]
    assert metrics["trained_tokens"] == sum(len(completion.token_ids) for completion in completions)
    assert metrics["learning_rate"] == 1e-3
    assert metrics["grad_norm"] > 0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # a fresh adapter is the policy without one
    lengths = [tokens(training) for training in batch]
    assert metrics["padding"] == pytest.approx(1 - sum(lengths) / (len(lengths) * max(lengths)))


def test_the_gap_to_the_engine_is_the_mean_over_all_trained_tokens(
    alone: tuple[dict[str, float], Path, Path], batch: list[TrainingGroup], tiny_model: Path, data: Path
) -> None:
    processor: Any = load_processor(tiny_model)
    policy: Any = load_policy(settings(tiny_model, data).model).eval()
    scorer = PolicyScorer(policy, banned_token_ids(processor, policy.get_output_embeddings().weight.shape[0]))
    gaps: list[Tensor] = []
    for training in batch:
        group = training.scored.group
        images = encode_images(processor, read_images(group.prompt, data))
        for completion in group.completions:
            prompt, ids = [False] * len(group.prompt_ids), completion.token_ids
            sequence = TokenSequence(group.prompt_ids + ids, prompt + [True] * len(ids), 0)
            with torch.no_grad():
                gaps.append(scorer(collate([sequence], [images], pad_id=0)) - torch.tensor(completion.logprobs))
    expected = float(torch.cat(gaps).abs().mean())
    assert alone[0]["rollout_logprob_diff"] == pytest.approx(expected, rel=1e-4)
    assert alone[0]["engine_gap"] == pytest.approx(expected, rel=1e-4)  # all are of the learner's version, 0


Descent = tuple[dict[str, float], Path, Path]
"""Metrics of the second of two updates by plain gradient descent; the adapters before and after both.

Two, for a fresh adapter's first factors get no gradient before its second factors have moved.
"""

PASSES = ("padding",)
"""Metrics that tell how a batch was cut."""


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in PASSES}


@pytest.fixture(scope="module")
def descend(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Descent]:
    """Makes two updates by plain gradient descent on one rank."""

    def two_updates(vision: str = "frozen", recompute: bool = False, **learner: Any) -> Descent:
        folder = tmp_path_factory.mktemp("descent")
        model = ModelSettings(path=tiny_model, gradient_checkpointing=recompute)
        config = settings(tiny_model, data, learning_rate=1.0, **learner)
        config = config.model_copy(update={"vision": vision, "model": model})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("actors.deepspeed_engine.torch.optim.AdamW", plain_descent)
            rank = one_rank(config)
        before = rank.publish(folder, 0)
        rank.update(batch, 0)
        metrics = rank.update(batch, 1)
        after = rank.publish(folder, 2)
        return metrics, before.path, after.path

    return two_updates


@pytest.fixture(scope="module")
def whole(descend: Callable[..., Descent]) -> Descent:
    """The batch in one pass of one rank."""
    return descend()


@pytest.mark.parametrize(("budget", "recompute"), [(1, False), (250, False), (250, True)])
def test_the_gradient_does_not_depend_on_the_size_of_micro_batches_nor_on_recomputing(
    budget: int, recompute: bool, descend: Callable[..., Descent], whole: Descent
) -> None:
    metrics, before, after = whole
    found, _, others = descend(recompute=recompute, sharding={"micro_batch_tokens": budget})
    assert comparable(found) == pytest.approx(comparable(metrics), rel=1e-4, abs=1e-6)
    assert apart(weights(before), weights(after)) > 1e-2
    assert gap_of_updates(before, after, others) < 1e-5


def test_completions_that_share_their_prompt_have_the_gradient_of_those_that_do_not(
    descend: Callable[..., Descent], whole: Descent, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, before, after = whole
    monkeypatch.setattr(PolicyScorer, "takes_branches", False)
    found, _, others = descend()
    assert comparable(found) == pytest.approx(comparable(metrics), rel=1e-4, abs=1e-6)
    assert gap_of_updates(before, after, others) < 1e-5


def test_an_adapter_of_the_vision_tower_gets_its_gradient_through_every_pass(descend: Callable[..., Descent]) -> None:
    _, before, after = descend("lora")
    moved = {name for name, weight in weights(after).items() if not weight.equal(weights(before)[name])}
    assert any(".visual." in name for name in moved)
    assert any(".language_model." in name for name in moved)
    _, _, others = descend("lora", sharding={"micro_batch_tokens": 1})
    assert gap_of_updates(before, after, others) < 1e-5


class Weighted(nn.Module):
    """A single weight, whose gradient is what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))

    def forward(self, gradient: float) -> Tensor:
        return (self.weight * gradient).sum()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_in_bfloat16_many_small_gradients_add_up_to_what_they_are_in_one_pass(stage: int) -> None:
    small = [1.0] * 256  # each is less than half of what 16 bits tell apart at 256

    def norm(pieces: list[float]) -> float:
        trainer = ShardedTrainer(
            Weighted(),
            OptimizerSettings(max_grad_norm=1e9),
            ShardingSettings.model_validate({"zero_stage": stage}),
            "bfloat16",
        )
        first, second = (trainer.update(pieces, trainer.engine, learning_rate=1e-3) for _ in range(2))
        assert first == second  # nothing is left over from one update to the next
        return first

    assert norm([256.0, *small]) == pytest.approx(norm([512.0]), rel=1e-6)


def stored(batch: list[TrainingGroup], data: Path) -> list[TrainingGroup]:
    """The batch with its images in the object store, each prompt's once."""
    groups = [training.scored.group for training in batch]
    prompts = [replace(group.prompt, stored=store_images(data, group.prompt.record)) for group in groups]
    return [
        replace(training, scored=replace(training.scored, group=replace(training.scored.group, prompt=prompt)))
        for training, prompt in zip(batch, prompts, strict=True)
    ]


@pytest.mark.parametrize(
    ("ranks", "stage", "kind"),
    [
        (2, 0, "DescendingRank"),
        pytest.param(4, 0, "DescendingRank", marks=pytest.mark.slow),
        pytest.param(2, 2, "DescendingRank", marks=pytest.mark.slow),
        # more ranks than groups: one has nothing to train
        pytest.param(4, 2, "DescendingRank", marks=pytest.mark.slow),
        pytest.param(2, 3, "DescendingRank", marks=pytest.mark.slow),
        pytest.param(4, 3, "DescendingRank", marks=pytest.mark.slow),
        # logits of a few tokens at once, which takes one rank more of them than the other
        pytest.param(2, 3, "ChunkingRank", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("ray_cluster")
def test_the_gradient_does_not_depend_on_the_number_of_ranks(
    ranks: int,
    stage: int,
    kind: str,
    whole: Descent,
    tiny_model: Path,
    data: Path,
    batch: list[TrainingGroup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray.cloudpickle.register_pickle_by_value(learner_cases)
    monkeypatch.setattr(learners, "LearnerRank", getattr(learner_cases, kind))
    metrics, before, after = whole
    sharding = {"zero_stage": stage, "micro_batch_tokens": 250}  # one rank has fewer passes to make than the other
    pool = LearnerPool(settings(tiny_model, data, learning_rate=1.0, workers=ranks, sharding=sharding))

    async def update() -> tuple[Any, dict[str, float], Any]:
        try:
            await pool.open()
            first = await pool.publish(tmp_path, 0)
            await pool.update(stored(batch, data), 0)
            return first, await pool.update(stored(batch, data), 1), await pool.publish(tmp_path, 2)
        finally:
            pool.close()

    first, found, last = asyncio.run(update())
    assert comparable(found) == pytest.approx(comparable(metrics), rel=1e-4, abs=1e-6)
    assert apart(weights(before), weights(first.path)) == 0
    assert gap_of_updates(before, after, last.path) < 1e-5


def test_the_divergence_of_each_completion_does_not_depend_on_the_passes(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    groups = [training.scored for training in batch]
    found = []
    for budget in (8192, 1):
        rank = one_rank(settings(tiny_model, data, sharding={"micro_batch_tokens": budget}))
        assert rank.divergences(groups) == pytest.approx([0.0] * 8, abs=1e-5)  # a fresh adapter changes nothing
        rank.update(batch, 0)
        found.append(rank.divergences(groups))
    assert min(found[0]) > 0
    assert found[1] == pytest.approx(found[0], rel=1e-2, abs=1e-6)


def test_the_log_probabilities_of_an_update_are_told_token_by_token(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    rank = one_rank(settings(tiny_model, data, sharding={"micro_batch_tokens": 250}))
    gap = rank.update(batch, 0)["rollout_logprob_diff"]
    completions = {
        (i, k): done for i, group in enumerate(batch) for k, done in enumerate(group.scored.group.completions)
    }
    learners = rank.trained_logprobs()
    assert learners.keys() == completions.keys()
    gaps = [
        abs(mine - engines)
        for name, done in completions.items()
        for mine, engines in zip(learners[name], done.logprobs, strict=True)
    ]
    assert fmean(gaps) == pytest.approx(gap, rel=1e-4)


def test_completions_that_were_cut_can_be_left_out_of_the_loss(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    group = batch[0].scored.group
    cut = [replace(group.completions[0], finish_reason="length"), *group.completions[1:]]
    scored = ScoredGroup(replace(group, completions=cut), batch[0].scored.rewards)
    algorithm = AlgorithmSettings(truncated="mask")
    rank = one_rank(settings(tiny_model, data).model_copy(update={"algorithm": algorithm}))
    metrics = rank.update([TrainingGroup(scored, batch[0].advantages)], 1)
    assert "engine_gap" not in metrics  # the completions are older than the learner
    assert metrics["trained_tokens"] == sum(len(completion.token_ids) for completion in cut[1:])
    assert metrics["grad_norm"] > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_an_update_can_be_made_with_every_preset(
    preset: str, one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    algorithm = AlgorithmSettings.model_validate({"preset": preset})
    rank = one_rank(settings(tiny_model, data).model_copy(update={"algorithm": algorithm}))
    metrics = rank.update(batch, 0)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["grad_norm"] > 0
    assert ("kl" in metrics) == algorithm.kl_in_loss


@pytest.mark.usefixtures("ray_cluster")
def test_a_rank_that_fails_is_named_with_its_reason(tmp_path: Path, data: Path) -> None:
    pool = LearnerPool(settings(tmp_path / "absent", data))

    async def start() -> None:
        try:
            await pool.open()
        finally:
            pool.close()

    with pytest.raises(PoolError, match=r"learner rank 0 \(pid .*\) failed in start: .*absent"):
        asyncio.run(start())
