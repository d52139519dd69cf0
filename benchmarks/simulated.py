"""Simulated workers for measuring what conducts a run: they sleep where an engine would work, and write nonsense.

Nothing here samples, scores or learns. Groups have the size of real ones, so that moving them costs what it costs.
"""

import asyncio
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from actors.adapters import Adapter
from actors.messages import CompletionName, Group, Prompt, Sampled, Sampling, ScoredGroup, TrainingGroup
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

TEXT = (
    '<reasoning>Simulated.</reasoning><morph>{"morphological_features_skincon": ["Plaque"]}</morph>'
    "<final_diagnosis>Psoriasis</final_diagnosis>"
)

IMAGE = "a.png"
"""The picture of every prompt."""


def prompts(count: int) -> list[RLPrompt]:
    truth = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
    return [
        RLPrompt(id=f"p{n:06d}", image=IMAGE, source="s", group="g", prompt="<image>\nName it.", ground_truth=truth)
        for n in range(count)
    ]


def seconds_of(index: int, median: float, seed: int = 0) -> float:
    """How long a group takes: log-normal, so that the slowest of a hundred takes about four times the median."""
    return median * random.Random(f"{seed} {index}").lognormvariate(0.0, 0.6)


class SimulatedEngine:
    """A rollout worker's class: a group takes `seconds_of` its index, however many are under way."""

    def __init__(self, median: float, tokens: int) -> None:
        self._median, self._tokens = median, tokens
        self._version = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def load(self, adapter: Adapter) -> str:
        self._version = adapter.version
        return adapter.checksum

    async def sample(
        self, prompt: Prompt, sampling: Sampling, adapted: bool = True, adapter: Adapter | None = None
    ) -> Group:
        version = self._version
        await asyncio.sleep(seconds_of(prompt.index, self._median))
        draw = random.Random(sampling.seed)
        completions = [
            Sampled([draw.randrange(1000)] * self._tokens, [-0.5] * self._tokens, TEXT, "stop")
            for _ in range(sampling.n)
        ]
        return Group(prompt, version, [7] * 300, completions)


class SimulatedRewards:
    """A reward worker's class: rewards that differ within a group."""

    async def start(self) -> None:
        """Nothing to load."""

    async def score(self, group: Group) -> ScoredGroup:
        scores = [n / len(group.completions) for n in range(len(group.completions))]
        return ScoredGroup(
            group, [Reward(score, {"format": score}, (), {"format": 1.0}, 1.0, frozenset()) for score in scores]
        )


class SimulatedRank:
    """A learner rank's class: its weights are a hash of every group that it was trained on, in order.

    Two runs that end with the same hash made the same updates, whatever happened on the way.
    """

    def __init__(self, config: MavicConfig, rank: int, seconds: float) -> None:
        self._seconds, self._rank = seconds, rank
        self._steps: list[str] = []

    def endpoint(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def start(self, address: str, port: int, learner: Path | None) -> None:
        if learner is not None:
            self._steps = json.loads((learner / "steps.json").read_text())

    async def update(self, groups: list[TrainingGroup], step: int) -> dict[str, float]:
        await asyncio.sleep(self._seconds)
        if step != len(self._steps):
            raise RuntimeError(f"update {step} was asked of weights that have seen {len(self._steps)}")
        indices = [training.scored.group.prompt.index for training in groups]
        self._steps.append(hashlib.sha256(json.dumps([self._steps[-1:], indices]).encode()).hexdigest())
        return {"loss": 0.0, "grad_norm": 1.0, "learning_rate": 0.0, "rollout_logprob_diff": 0.0}

    def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        return {}

    async def publish(self, folder: Path, version: int) -> Adapter:
        path = folder / f"v{version:06d}"
        path.mkdir(parents=True, exist_ok=True)
        return Adapter(version, path, str(self._steps[-1:]))

    async def save(self, folder: Path) -> None:
        if self._rank == 0:
            (folder / "learner").mkdir()
            (folder / "learner" / "steps.json").write_text(json.dumps(self._steps))


class SimulatedLearners:
    """Stands for the whole learner pool in the controller's process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.groups = 0

    async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
        await asyncio.sleep(self._seconds)
        self.groups += len(batch)
        return {"loss": 0.0, "grad_norm": 1.0, "learning_rate": 0.0, "rollout_logprob_diff": 0.0}

    async def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        return {}

    async def divergences(self, batch: list[ScoredGroup]) -> list[float]:
        return [0.0 for scored in batch for _ in scored.rewards]

    async def publish(self, folder: Path, version: int) -> Adapter:
        return Adapter(version, folder / f"v{version:06d}", f"checksum {version}")

    async def save(self, folder: Path) -> None:
        (folder / "learner").mkdir()

    def saved(self, checkpoint: Path) -> None:
        """Nothing to forget."""


def settings(run: Path, **values: Any) -> MavicConfig:
    """Settings of a simulated run."""
    return MavicConfig.model_validate({"run": run, "data": run, "model": {"path": run}} | values)
