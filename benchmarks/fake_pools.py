"""Fake pools for simulations: they wait instead of working, and say what they are told to.

Nothing is sampled, scored or learned here; the run controller above them is the real one.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.adapters import Adapter, Published, Sent
from actors.messages import CompletionName, Group, Prompt, Sampled, Sampling, ScoredGroup, TrainingGroup
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

PROMPT = RLPrompt(
    id="fake",
    image="none",
    source="fake",
    group="fake",
    prompt="<image>",
    ground_truth=GroundTruth(task="task1", modality="clinical"),
)


class FakeRollouts:
    """Fake engines: the group of prompt `index` takes `seconds(index)`, however many are under way."""

    def __init__(self, seconds: Callable[[int], float], load_seconds: float, working: Callable[[float], None]) -> None:
        """`working` is told the share of the engines that are at work whenever that changes."""
        self._seconds, self._load_seconds, self._working = seconds, load_seconds, working
        self._version = self._running = 0

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        """A group of the version that was the newest when it began."""
        version = self._version
        self._run(+1)
        await asyncio.sleep(self._seconds(prompt.index))
        self._run(-1)
        return Group(prompt, version, [0], [Sampled([0], [-0.1], "fake", "stop") for _ in range(sampling.n)])

    async def load(self, weights: Published | Sent) -> None:
        """Takes the time to load."""
        await asyncio.sleep(self._load_seconds)
        self._version = weights.version

    def _run(self, change: int) -> None:
        self._running += change
        self._working(float(self._running > 0))


class FakeRewards:
    """Fake reward workers: completions earn 0, 1, 0, 1, ... at once."""

    async def score(self, group: Group) -> ScoredGroup:
        """Scores that differ within a group."""
        rewards = [Reward(float(n % 2), {}, (), {}, 1.0, frozenset()) for n in range(len(group.completions))]
        return ScoredGroup(group, rewards)


class FakeLearners:
    """Fake learners: an update takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """Takes the time of an update."""
        await asyncio.sleep(self._seconds)
        return {"rollout_logprob_diff": 0.0, "grad_norm": 1.0}

    async def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """Nothing was trained."""
        return {}

    async def divergences(self, batch: Sequence[ScoredGroup]) -> list[float]:
        """No divergence."""
        return [0.0 for scored in batch for _ in scored.rewards]

    async def publish(self, folder: Path, version: int) -> Adapter:
        """Names an adapter that nobody wrote."""
        return Adapter(version, folder / "fake", "fake")

    async def save(self, folder: Path) -> None:
        """Nothing to save."""

    def saved(self, checkpoint: Path) -> None:
        """Nothing to go back to."""
