"""What the run controller needs of its pools, and no more: tests and simulations stand in for them one by one.

Invariant: a pool that raises has done all it could, restarts included; the controller ends the run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from actors.adapters import Published, Sent
from actors.messages import CompletionName, Group, Prompt, Sampling, ScoredGroup, TrainingGroup
from dermo_ray.errors import UserError


class Rollouts(Protocol):
    """Engines that sample."""

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        """The group of one prompt, by `adapter` or else the newest version that was loaded when its request began."""

    async def load(self, weights: Published | Sent) -> None:
        """Returns once every engine that takes requests has proved that it has `weights`."""


class Rewards(Protocol):
    """Workers that score."""

    async def score(self, group: Group) -> ScoredGroup:
        """The reward of every completion. Raises `RewardError` where a group can't be scored."""


class Learners(Protocol):
    """Ranks that train one policy together."""

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """One update, number `step` from 0; its metrics."""

    async def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """Log-probabilities, in nats, of every token of the last update, by the policy before it."""

    async def divergences(self, batch: Sequence[ScoredGroup]) -> list[float]:
        """How far each completion takes the policy from itself without its adapter, in nats."""

    async def publish(self, folder: Path, version: int) -> Published | Sent | None:
        """Hand over the weights as policy `version`: written below `folder`, or sent; None where there are none."""

    async def save(self, folder: Path) -> None:
        """Write weights and optimizer into an unfinished checkpoint. Raises `CheckpointError` where that failed."""

    def saved(self, checkpoint: Path) -> None:
        """What was written last is safe in `checkpoint`: the state to go back to."""


class RewardError(UserError):
    """A group could not be scored; the message names the worker, the prompt and the reason."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the learners go on."""
