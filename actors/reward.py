"""The reward worker: scores whole groups in one Ray actor.

Invariants: one reward for each completion, in their order (`ScoredGroup` refuses anything else); concept model and
extra terms are loaded once, and an image is decoded and encoded once for its group. The pool that calls `score` sets
the deadline; a service among the terms has its own below that.
"""

from functools import cached_property
from pathlib import Path

from actors.messages import Group, ScoredGroup
from dermo_ray.config import RewardConfig
from rewards import Scorer
from rewards.concepts import FolderConcepts


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
