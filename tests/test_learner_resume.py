"""Real learner ranks that go on from a checkpoint: the same ones, another number of them, and after one was killed."""

import asyncio
import math
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from actors.adapters import WEIGHTS
from actors.learner_pool import LearnerPool
from actors.messages import Group, Prompt, Sampled, ScoredGroup, TrainingGroup
from actors.pool import PoolError
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.models.chat import banned_token_ids, load_processor, prompt_text
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

pytestmark = pytest.mark.usefixtures("ray_cluster")

PROMPT = "<image>\nName it."
TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")


def settings(model: Path, data: Path, **learner: Any) -> MavicConfig:
    pool = {"optimizer": {"learning_rate": 1e-3}, "cpus_per_worker": 0.4, "timeout": 120, "heartbeat": 30}
    common = {"run": data / "run", "data": data, "model": {"path": model}, "lora": {"rank": 8, "alpha": 16}}
    return MavicConfig.model_validate(common | {"learner": pool | learner})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("resume-data")
    Image.new("RGB", (64, 64), "pink").save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def batch(tiny_model: Path, data: Path) -> list[TrainingGroup]:
    """Three groups of two completions, with log-probabilities that an engine might have told."""
    processor: Any = load_processor(tiny_model)
    text = prompt_text(processor, [{"from": "human", "value": PROMPT}])
    with Image.open(data / "a.png") as image:
        (prompt_ids,) = processor(text=[text], images=[image])["input_ids"]
    banned = banned_token_ids(processor, 300)
    allowed = [token for token in range(10, 300) if token not in banned]
    rng = random.Random(0)
    groups = []
    for index in range(3):
        record = RLPrompt(id=f"p{index}", image="a.png", source="s", group="g", prompt=PROMPT, ground_truth=TRUTH)
        completions = []
        for _ in range(2):
            ids = rng.choices(allowed, k=rng.randrange(4, 12))
            completions.append(Sampled(ids, [rng.uniform(-9, -5) for _ in ids], "", "stop"))
        rewards = [Reward(total, {}, (), {}, 1.0, frozenset()) for total in (0.0, 1.0)]
        scored = ScoredGroup(Group(Prompt(index, record), 0, list(prompt_ids), completions), rewards)
        groups.append(TrainingGroup(scored, [-1.0, 1.0]))
    return groups


def with_pool(pool: LearnerPool, learner: Path | None, body: Callable[[LearnerPool], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        try:
            await pool.open(learner)
            return await body(pool)
        finally:
            pool.close()

    return asyncio.run(run())


def apart(first: Path, second: Path) -> float:
    one, other = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_ranks_go_on_with_the_same_numbers_after_a_resume_and_after_a_kill(
    tiny_model: Path, data: Path, batch: list[TrainingGroup], tmp_path: Path
) -> None:
    config = settings(tiny_model, data)
    batches = [batch, batch[::-1], batch[:2], batch[1:]]

    async def undisturbed(pool: LearnerPool) -> tuple[list[float], Path]:
        losses = []
        for step, groups in enumerate(batches):
            losses.append((await pool.update(groups, step))["loss"])
            if step == 1:
                await pool.save(tmp_path / "checkpoint")
        return losses, (await pool.publish(tmp_path / "whole", 4)).path

    losses, expected = with_pool(LearnerPool(config), None, undisturbed)

    async def killed(pool: LearnerPool) -> tuple[list[float], Path]:
        found = [(await pool.update(batches[2], 2))["loss"]]
        location = pool.locations[0]
        assert location is not None
        os.kill(location.pid, signal.SIGKILL)
        found.append((await pool.update(batches[3], 3))["loss"])
        assert pool.restarts == 1
        return found, (await pool.publish(tmp_path / "resumed", 4)).path

    found, path = with_pool(LearnerPool(config), tmp_path / "checkpoint" / "learner", killed)
    assert found == losses[2:]
    assert apart(path, expected) == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_tried_once_more_and_leaves_nothing_in_the_weights(
    tiny_model: Path, data: Path, batch: list[TrainingGroup]
) -> None:
    spoilt = [TrainingGroup(batch[0].scored, [math.nan, 1.0]), *batch[1:]]

    async def body(pool: LearnerPool) -> tuple[int, float]:
        first = (await pool.update(batch, 0))["loss"]
        assert math.isfinite(first)
        message = r"learner rank 0 \(pid \d+ on .*failed in update: .*update 1: loss nan .* must be finite \(2 times"
        with pytest.raises(PoolError, match=message):
            await pool.update(spoilt, 1)
        loss = (await pool.update(batch[::-1], 1))["loss"]
        return pool.restarts, loss

    restarts, loss = with_pool(LearnerPool(settings(tiny_model, data)), None, body)
    assert restarts == 2  # before the second try, and before the good batch
    assert math.isfinite(loss)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_from_a_checkpoint(
    stage: int, before: int, after: int, tiny_model: Path, data: Path, batch: list[TrainingGroup], tmp_path: Path
) -> None:
    async def first(pool: LearnerPool) -> tuple[float, Path]:
        await pool.update(batch, 0)
        await pool.save(tmp_path / "checkpoint")
        return (await pool.update(batch, 1))["loss"], (await pool.publish(tmp_path / "first", 2)).path

    async def second(pool: LearnerPool) -> tuple[float, Path]:
        return (await pool.update(batch, 1))["loss"], (await pool.publish(tmp_path / "second", 2)).path

    def pool(workers: int) -> LearnerPool:
        return LearnerPool(settings(tiny_model, data, workers=workers, sharding={"zero_stage": stage}))

    loss, expected = with_pool(pool(before), None, first)
    other_loss, path = with_pool(pool(after), tmp_path / "checkpoint" / "learner", second)
    assert other_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert apart(path, expected) < 2e-4
