"""Stand-ins for the pools that a mode leaves out.

Engines and reward workers repeat what an earlier run recorded, and learners learn nothing. Invariants: groups come in
the order in which that run used them, with the token ids, log-probabilities and age that they had there; prompts alone
are tokenised again, as the engine saw them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from transformers import ProcessorMixin

from actors.adapters import Published, Sent
from actors.images import read_images
from actors.messages import CompletionName, Group, Prompt, Sampled, Sampling, ScoredGroup, TrainingGroup
from dermo_ray import rollouts
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.errors import UserError
from dermo_ray.models.chat import prompt_text
from dermo_ray.records import RLPrompt
from dermo_ray.rollouts import ScoredCompletion
from rewards import Reward


@dataclass(frozen=True)
class Dump:
    """What an earlier run recorded: its groups in order, each the rows of its completions."""

    folder: Path
    groups: list[list[ScoredCompletion]]
    prompts: list[RLPrompt]
    """The prompt of each group."""

    @classmethod
    def read(cls, folder: Path, prompts: Sequence[RLPrompt]) -> "Dump":
        """Read a run's `rollouts` folder, whose prompts are among `prompts`.

        Raises `UserError` where there is nothing to replay, it lacks token ids, or a prompt is not there.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        groups: list[list[ScoredCompletion]] = []
        for row in rollouts.read(folder):
            if row.prompt_id not in by_id:
                raise UserError(
                    f"{folder} holds completions for {row.prompt_id}, which is not among the prompts of data"
                )
            if row.token_ids is None or row.token_logprobs is None:
                raise UserError(
                    f"{folder} was written without token ids: only completions that have them can be replayed"
                )
            if row.sample == 0:
                groups.append([])
            groups[-1].append(row)
        return cls(folder, groups, [by_id[rows[0].prompt_id] for rows in groups])

    def steps(self, batch_groups: int, *, drops: bool) -> list[int]:
        """The update that each group will be used in; with `drops`, those that were dropped are dropped again.

        A dropped group has no advantage, and leaves its place in the batch to the next one that has.
        """
        trained = [not drops or rows[0].advantage is not None for rows in self.groups]
        return [before // batch_groups for before in accumulate(trained[:-1], initial=0)]


class DumpOrder(PromptOrder):
    """The prompts of a dump, in its order."""

    def __init__(self, dump: Dump) -> None:
        super().__init__(dump.prompts, seed=0)
        self._folder = dump.folder

    def __getitem__(self, index: int) -> RLPrompt:
        if index >= len(self.prompts):
            raise UserError(f"{self._folder} holds {len(self.prompts)} groups and more are needed: give fewer steps")
        return self.prompts[index]


class DumpedRollouts:
    """Stands for the engines: group `index` is the dump's."""

    def __init__(self, dump: Dump, processor: ProcessorMixin, config: MavicConfig) -> None:
        self._dump, self._processor = dump, processor
        self._data = config.data
        self._steps = dump.steps(config.batch_groups, drops=config.algorithm.dynamic_sampling)

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        """The recorded group; its versions are moved so that it is as old when it is trained on as it was then."""
        rows = self._dump.groups[prompt.index]
        earlier = rows[0].step - self._steps[prompt.index]
        completions = [_sampled(row, earlier) for row in rows]
        version = min((v for c in completions for v in c.versions), default=max(0, rows[0].version - earlier))
        return Group(prompt, version, await asyncio.to_thread(self._prompt_ids, prompt), completions)

    async def load(self, weights: Published | Sent) -> None:
        """There is no engine to load them."""

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        images = read_images(prompt, self._data)
        text = prompt_text(self._processor, [{"from": "human", "value": prompt.record.prompt}])
        ids: list[int] = self._processor(text=[text], images=images)["input_ids"][0]
        return list(ids)


class DumpedRewards:
    """Stands for the reward workers: completions have the rewards that they had."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    async def score(self, group: Group) -> ScoredGroup:
        """The recorded rewards of a recorded group."""
        rows = self._dump.groups[group.prompt.index]
        return ScoredGroup(
            group,
            [Reward(r.reward, r.terms, r.faults, r.weights, r.gate, frozenset(r.gated)) for r in rows],
        )


class NoLearners:
    """Stands for the learners where nothing is trained: the engines go on with the policy that they started with."""

    async def update(self, batch: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """Nothing is learned, and nothing measured."""
        return {}

    async def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """No token was trained."""
        return {}

    async def divergences(self, batch: Sequence[ScoredGroup]) -> list[float]:
        """Needs learners; the settings refuse it in this mode."""
        raise NotImplementedError("no learner to measure divergences")

    async def publish(self, folder: Path, version: int) -> None:
        """There is nothing new to load."""

    async def save(self, folder: Path) -> None:
        """A checkpoint holds the run's progress alone."""

    def saved(self, checkpoint: Path) -> None:
        """There is no state to go back to."""


def _sampled(row: ScoredCompletion, earlier: int) -> Sampled:
    """A completion as the engine gave it, its versions lowered by `earlier`."""
    assert row.token_ids is not None  # a dump without them is refused
    assert row.token_logprobs is not None
    versions = [max(0, version - earlier) for version in row.token_versions or ()]
    return Sampled(list(row.token_ids), list(row.token_logprobs), row.text, row.finish_reason, versions=versions)
