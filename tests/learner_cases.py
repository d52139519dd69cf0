"""Batches for learners, settings that go with them, and plain gradient descent in place of AdamW."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from actors.adapters import WEIGHTS
from actors.messages import Group, Prompt, Sampled, ScoredGroup, TrainingGroup
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.models.chat import load_processor, prompt_text
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

_TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
_REWARD = Reward(0.5, {"format": 0.5}, (), {"format": 1.0}, 1.0, frozenset())


def training_group(
    index: int, prompt_ids: Sequence[int], completions: Sequence[Sampled], advantages: Sequence[float], *images: str
) -> TrainingGroup:
    record = RLPrompt(
        id=f"p{index}",
        image=images[0] if images else "",
        further_images=list(images[1:]),
        source="s",
        group="g",
        prompt="<image>\n" * len(images) + "Name",
        ground_truth=_TRUTH,
    )
    group = Group(Prompt(index, record), 0, list(prompt_ids), list(completions))
    return TrainingGroup(ScoredGroup(group, [_REWARD] * len(completions)), list(advantages))


def drawn_images(folder: Path) -> Path:
    """Four phantoms of unlike size, `0.png` and so on, in `folder`."""
    for number, size in enumerate((96, 64, 80, 72)):
        Image.fromarray(draw(number, PhantomSettings(size=size)).image).save(folder / f"{number}.png")
    return folder


def uneven_batch(model: Path, data: Path) -> list[TrainingGroup]:
    """Eight completions of unlike length in groups of 3, 3 and 2, with log-probabilities that an engine might report.

    The last group's prompt shows two images.
    """
    processor: Any = load_processor(model)
    rng = random.Random(0)
    groups = []
    for index, names in enumerate((["0.png"], ["1.png"], ["2.png", "3.png"])):
        images = [Image.open(data / name).convert("RGB") for name in names]
        text = prompt_text(processor, [{"from": "human", "value": "<image>\n" * len(names) + "clinical: diagnose"}])
        (prompt_ids,) = processor(text=[text], images=images)["input_ids"]
        completions = []
        for _ in range(3 if index < 2 else 2):
            ids = [rng.randrange(10, 300) for _ in range(rng.randrange(3, 14))]
            completions.append(Sampled(ids, [rng.uniform(-9, -5) for _ in ids], "", "stop"))
        advantages = [rng.uniform(-1.5, 1.5) for _ in completions]
        groups.append(training_group(index, prompt_ids, completions, advantages, *names))
    return groups


def settings(model: Path, data: Path, *, learning_rate: float = 1e-3, **learner: Any) -> MavicConfig:
    optimizer = {"learning_rate": learning_rate}
    return MavicConfig.model_validate(
        {
            "run": "runs/unused",
            "data": data,
            "model": {"path": model},
            "lora": {"rank": 8, "alpha": 16},
            "algorithm": {"kl_coefficient": 0.1},
            "learner": {"optimizer": optimizer, "cpus_per_worker": 0.4, "timeout": 120} | learner,
        }
    )


def plain_descent(parameters: Any, lr: float, **adamw: Any) -> torch.optim.Optimizer:
    """What AdamW is called with, for an update that is the gradient times the rate.

    AdamW divides by the size of each gradient, and so makes of rounding errors near 0 updates like any other.
    """
    return torch.optim.SGD(parameters, lr=lr)


class DescendingRank:
    """A learner rank by plain gradient descent, for an actor's process."""

    def __init__(self, config: MavicConfig, rank: int) -> None:
        from actors.learner import LearnerRank

        torch.optim.AdamW = plain_descent  # type: ignore[assignment, misc]
        self._rank = LearnerRank(config, rank)

    def endpoint(self) -> Any:
        return self._rank.endpoint()

    def start(self, *arguments: Any) -> Any:
        return self._rank.start(*arguments)

    def update(self, *arguments: Any) -> Any:
        return self._rank.update(*arguments)

    def publish(self, *arguments: Any) -> Any:
        return self._rank.publish(*arguments)


class ChunkingRank(DescendingRank):
    """The same with logits of two tokens at once, and every weight cut up, also those that ZeRO-3 leaves whole."""

    def __init__(self, config: MavicConfig, rank: int) -> None:
        import deepspeed

        from dermo_ray.models import policy

        initialize = deepspeed.initialize

        def cut_up(*, config: dict[str, Any], **more: Any) -> Any:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
            return initialize(config=config, **more)

        deepspeed.initialize = cut_up
        policy._LOGITS_AT_ONCE = 2 * 1024
        super().__init__(config, rank)


def move(policy: Any, generator: torch.Generator) -> None:
    """Let the adapter of `policy` change what it does: a fresh one does not, for its second factors are 0."""
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=generator)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of a weight."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def gap_of_updates(before: Path, first: Path, second: Path) -> float:
    """The norm of the difference between two updates, relative to that of the first."""
    start, one, other = weights(before), weights(first), weights(second)
    difference = sum(float((one[name] - other[name]).square().sum()) for name in start)
    return math.sqrt(difference / sum(float((one[name] - start[name]).square().sum()) for name in start))
