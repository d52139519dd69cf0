"""The reward worker: scores whole groups in one Ray actor.

Invariant: one reward for each completion, in their order; `ScoredGroup` refuses anything else.
"""

from actors.messages import Group, ScoredGroup
from dermo_ray.config import RewardConfig
from rewards import mavic_reward


class RewardWorker:
    """A Ray actor's class."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config

    def start(self) -> None:
        """Ready as soon as it is built; answers when that is so."""

    def score(self, group: Group) -> ScoredGroup:
        """The MAVIC reward of every completion of a group."""
        truth = group.prompt.record.ground_truth
        rewards = [mavic_reward(completion.text, truth, self._config) for completion in group.completions]
        return ScoredGroup(group, rewards)
