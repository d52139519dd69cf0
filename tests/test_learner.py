"""The learners: who takes what of a batch, and one update that is the same however it is dealt out."""

import asyncio
import math
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from actors.adapters import WEIGHTS
from actors.deepspeed_engine import join_ranks
from actors.learner import LearnerRank, deal, runs_within
from actors.learner_pool import LearnerPool
from actors.messages import Group, Prompt, Sampled, ScoredGroup, TrainingGroup
from actors.pool import PoolError
from dermo_ray.config.algorithm import PRESETS, AlgorithmSettings
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.models.batches import TokenSequence, VLMBatch, collate, encode_images
from dermo_ray.models.chat import banned_token_ids, load_processor, prompt_text
from dermo_ray.models.policy import PolicyScorer, load_policy
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
REWARD = Reward(0.5, {"format": 0.5}, (), {"format": 1.0}, 1.0, frozenset())


def training_group(
    index: int, prompt_ids: Sequence[int], completions: Sequence[Sampled], advantages: Sequence[float], image: str = ""
) -> TrainingGroup:
    record = RLPrompt(id=f"p{index}", image=image, source="s", group="g", prompt="<image>\nName", ground_truth=TRUTH)
    group = Group(Prompt(index, record), 0, list(prompt_ids), list(completions))
    return TrainingGroup(ScoredGroup(group, [REWARD] * len(completions)), list(advantages))


def of_lengths(index: int, prompt: int, lengths: Sequence[int]) -> TrainingGroup:
    completions = [Sampled([1] * length, [-1.0] * length, "", "stop") for length in lengths]
    return training_group(index, [2] * prompt, completions, [0.0] * len(lengths))


def padded(training: TrainingGroup) -> tuple[int, int]:
    """Rows and width of a group by itself."""
    group = training.scored.group
    return len(group.completions), len(group.prompt_ids) + max(len(c.token_ids) for c in group.completions)


batches = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 40), min_size=2, max_size=5)), min_size=1, max_size=20
).map(lambda shapes: [of_lengths(index, *shape) for index, shape in enumerate(shapes)])


def indices(groups: Sequence[TrainingGroup]) -> list[int]:
    return [training.scored.group.prompt.index for training in groups]


@given(batches, st.integers(1, 6), st.randoms())
def test_every_group_is_dealt_to_one_rank_and_the_loads_are_level(
    groups: list[TrainingGroup], ranks: int, rng: random.Random
) -> None:
    shares = deal(groups, ranks)
    assert sorted(index for share in shares for index in indices(share)) == list(range(len(groups)))
    loads = [sum(rows * width for rows, width in map(padded, share)) for share in shares]
    largest = max(rows * width for rows, width in map(padded, groups))
    assert max(loads) - min(loads) <= largest
    shuffled = list(groups)
    rng.shuffle(shuffled)
    assert [indices(share) for share in deal(shuffled, ranks)] == [indices(share) for share in shares]


@given(batches, st.integers(1, 600))
def test_every_group_is_in_one_run_and_runs_keep_to_the_budget(groups: list[TrainingGroup], budget: int) -> None:
    runs = runs_within(groups, budget)
    assert sorted(index for run in runs for index in indices(run)) == list(range(len(groups)))
    for run in runs:
        shapes = [padded(training) for training in run]
        size = sum(rows for rows, _ in shapes) * max(width for _, width in shapes)
        assert len(run) == 1 or size <= budget


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learner-data")
    for number in range(3):
        Image.fromarray(draw(number, PhantomSettings(size=(96, 64, 80)[number])).image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def batch(tiny_model: Path, data: Path) -> list[TrainingGroup]:
    """Three groups of three completions of unlike length, with log-probabilities that the engine might have told."""
    processor: Any = load_processor(tiny_model)
    rng = random.Random(0)
    groups = []
    for index in range(3):
        with Image.open(data / f"{index}.png") as image:
            text = prompt_text(processor, [{"from": "human", "value": "<image>\nclinical: diagnose"}])
            (prompt_ids,) = processor(text=[text], images=[image.convert("RGB")])["input_ids"]
        completions = []
        for _ in range(3):
            ids = [rng.randrange(10, 300) for _ in range(rng.randrange(3, 14))]
            completions.append(Sampled(ids, [rng.uniform(-9, -5) for _ in ids], "", "stop"))
        advantages = [rng.uniform(-1.5, 1.5) for _ in completions]
        groups.append(training_group(index, prompt_ids, completions, advantages, f"{index}.png"))
    return groups


def settings(tiny_model: Path, data: Path, **learner: Any) -> MavicConfig:
    return MavicConfig.model_validate(
        {
            "run": "runs/unused",
            "data": data,
            "model": {"path": tiny_model},
            "lora": {"rank": 4, "alpha": 8},
            "algorithm": {"kl_coefficient": 0.1},
            "learner": {"optimizer": {"learning_rate": 1e-3}, "cpus_per_worker": 0.4, "timeout": 120} | learner,
        }
    )


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def gap_of_updates(before: Path, first: Path, second: Path) -> float:
    """The norm of the difference between two updates, relative to that of the first.

    Not the largest difference of a weight: Adam's first step has one size however small the gradient is, and rounding
    decides its sign where the gradient is next to nothing.
    """
    start, one, other = weights(before), weights(first), weights(second)
    difference = sum(float((one[name] - other[name]).square().sum()) for name in start)
    return math.sqrt(difference / sum(float((one[name] - start[name]).square().sum()) for name in start))


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


def test_the_gap_to_the_engine_is_the_mean_over_all_trained_tokens(
    alone: tuple[dict[str, float], Path, Path], batch: list[TrainingGroup], tiny_model: Path, data: Path
) -> None:
    processor: Any = load_processor(tiny_model)
    policy: Any = load_policy(settings(tiny_model, data).model).eval()
    scorer = PolicyScorer(policy, banned_token_ids(processor, policy.get_output_embeddings().weight.shape[0]))
    gaps: list[Tensor] = []
    for training in batch:
        group = training.scored.group
        with Image.open(data / group.prompt.record.image) as image:
            tensors = encode_images(processor, [image.convert("RGB")])
        for completion in group.completions:
            prompt, ids = [False] * len(group.prompt_ids), completion.token_ids
            sequence = TokenSequence(group.prompt_ids + ids, prompt + [True] * len(ids), 0)
            one: VLMBatch = collate([sequence], tensors, pad_id=0)
            with torch.no_grad():
                gaps.append(scorer(one) - torch.tensor(completion.logprobs))
    assert alone[0]["rollout_logprob_diff"] == pytest.approx(float(torch.cat(gaps).abs().mean()), rel=1e-4)


@pytest.mark.parametrize("budget", [1, 250])
def test_the_update_does_not_depend_on_the_size_of_micro_batches(
    budget: int,
    one_rank: Any,
    alone: tuple[dict[str, float], Path, Path],
    tiny_model: Path,
    data: Path,
    batch: Any,
    tmp_path: Path,
) -> None:
    metrics, before, after = alone
    assert len(runs_within(batch, budget)) > 1
    rank = one_rank(settings(tiny_model, data, sharding={"micro_batch_tokens": budget}))
    found = rank.update(batch, 0)
    rank.save_weights(tmp_path)
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert gap_of_updates(before, after, tmp_path) < 1e-3


def test_the_divergence_of_each_completion_does_not_depend_on_the_passes(
    one_rank: Any, tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    groups = [training.scored for training in batch]
    found = []
    for budget in (8192, 1):
        rank = one_rank(settings(tiny_model, data, sharding={"micro_batch_tokens": budget}))
        assert rank.divergences(groups) == pytest.approx([0.0] * 9, abs=1e-5)  # a fresh adapter changes nothing
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
    metrics = rank.update([TrainingGroup(scored, batch[0].advantages)], 0)
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


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.usefixtures("ray_cluster")
def test_two_ranks_make_the_update_of_one(
    stage: int, alone: tuple[dict[str, float], Path, Path], tiny_model: Path, data: Path, batch: Any, tmp_path: Path
) -> None:
    metrics, before, after = alone
    sharding = {"zero_stage": stage, "micro_batch_tokens": 250}  # one rank has fewer passes to make than the other
    pool = LearnerPool(settings(tiny_model, data, workers=2, sharding=sharding))

    async def update() -> tuple[Any, dict[str, float], Any]:
        try:
            await pool.open()
            first = await pool.publish(tmp_path, 0)
            return first, await pool.update(batch, 0), await pool.publish(tmp_path, 1)
        finally:
            pool.close()

    first, found, last = asyncio.run(update())
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert apart(weights(before), weights(first.path)) == 0
    assert gap_of_updates(before, after, last.path) < 1e-3


@pytest.mark.usefixtures("ray_cluster")
def test_a_rank_that_fails_is_named_with_its_reason(tmp_path: Path, data: Path) -> None:
    pool = LearnerPool(settings(tmp_path / "absent", data))

    async def start() -> None:
        try:
            await pool.open()
        finally:
            pool.close()

    with pytest.raises(PoolError, match=r"learner rank 0 failed in start: .*absent"):
        asyncio.run(start())
