"""The reward worker: scores whole groups in one Ray actor.

Invariants: one reward for each completion, in their order (`ScoredGroup` refuses anything else); concept model and
extra terms are loaded once, and an image is decoded and encoded once for its group. The pool that calls `score` sets
the deadline; a service among the terms has its own below that.
"""

from functools import cached_property
from pathlib import Path

from actors.environment import worker_environment
from actors.hosting import last_line
from actors.interfaces import RewardError
from actors.messages import Group, ScoredGroup
from actors.pool import Pool, PoolError, ray_pool
from dermo_ray.config import RewardConfig
from dermo_ray.config.mavic import RewardPoolSettings
from rewards import Scorer
from rewards.concepts import FolderConcepts

_SLOTS = 2
"""Groups on one worker: the one that it scores, and the next."""
_ATTEMPTS = 2
"""Times that a group is scored before it counts as one that can't be."""


class RewardWorker:
    """A Ray actor's class. `data` is the prepared folder of the prompts; only the concept model needs it."""

    def __init__(self, config: RewardConfig, data: Path | None = None) -> None:
        if config.concepts is not None and data is None:
            raise ValueError("a reward with a concept model needs the folder that holds the images")
        self._config, self._data = config, data

    def start(self) -> None:
        """Load everything, so that the first group does not wait for it and what is missing shows now."""
        _ = self._scorer, self._images

    def score(self, group: Group) -> ScoredGroup:
        """The reward of every completion of a group."""
        record = group.prompt.record
        texts = [completion.text for completion in group.completions]
        concepts = None if self._images is None else self._images.of(record.image, record.ground_truth.modality)
        return ScoredGroup(group, self._scorer.score(texts, [record.ground_truth] * len(texts), concepts))

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self._config)

    @cached_property
    def _images(self) -> FolderConcepts | None:
        if self._config.concepts is None or self._data is None:
            return None
        return FolderConcepts(self._config.concepts, self._data)


class Rewards:
    """The reward pool as the run controller sees it."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self.pool, self._timeout = pool, timeout

    async def score(self, group: Group) -> ScoredGroup:
        """The reward of every completion. Raises `RewardError` where that failed twice: a term raises, or is late."""
        name = f"prompt {group.prompt.record.id} (index {group.prompt.index})"
        for attempt in range(_ATTEMPTS):
            try:
                scored: ScoredGroup = await self.pool.call("score", group, timeout=self._timeout)
                return scored
            except PoolError as error:
                if self.pool.failed:
                    raise
                raise RewardError(f"the group of {name} was not scored: {error}") from error
            except Exception as error:
                if attempt == _ATTEMPTS - 1:
                    raise RewardError(f"the group of {name} was not scored: {last_line(error)}") from error
        raise AssertionError("no attempt was allowed")


def reward_pool(settings: RewardPoolSettings, reward: RewardConfig, data: Path) -> Pool:
    """The pool that scores groups of the prepared folder `data`, not yet open; its work is completions."""
    return ray_pool(
        "reward",
        settings,
        RewardWorker,
        (reward, data),
        worker_environment(settings),
        start_timeout=settings.timeout,
        slots=_SLOTS,
        measure=lambda scored: float(len(scored.rewards)),
        unit="completions",
        sequential=True,
    )
