"""From scored groups to the passes of one rank: who takes what of a batch, and how a share is cut up.

Invariants: every completion is in one piece of one rank; which, depends on the batch alone and not on the order in
which it came; the trained token ids are the sampled ones, after the prompt ids that the engine used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actors.messages import TrainingGroup
from dermo_ray.models.batches import ImageFeatures, PromptImages, TokenSequence, VLMBatch, collate, untrained


@dataclass(frozen=True)
class Row:
    """One completion as a sequence to train on."""

    sequence: TokenSequence
    advantage: float
    rollout_logprobs: list[float]
    """As the engine reported them, one for each token of the completion."""
    version: int
    """The policy version that sampled it."""
    completion: tuple[int, int]
    """The index of its prompt, and which of the prompt's completions it is."""


@dataclass(frozen=True)
class Piece:
    """One forward and backward pass: [B, L] tensors beside the batch."""

    batch: VLMBatch
    advantages: Tensor
    """[B]."""
    rollout_logprobs: Tensor
    """[B, L], as the engine reported them, 0 where no token is trained."""
    versions: Tensor
    """[B] int64: the policy version that sampled each row."""
    completions: list[tuple[int, int]]
    """[B]: the index of each row's prompt, and which of its completions the row is."""

    @property
    def untrained(self) -> "Piece":
        """The same pass without a trained token, for a rank that has fewer passes than others."""
        return replace(
            self, batch=untrained(self.batch), rollout_logprobs=torch.zeros_like(self.rollout_logprobs)
        )

    def to(self, device: torch.device) -> "Piece":
        """The same on `device`."""
        return replace(
            self,
            batch=self.batch.to(device),
            advantages=self.advantages.to(device),
            rollout_logprobs=self.rollout_logprobs.to(device),
            versions=self.versions.to(device),
        )


def deal(groups: Sequence[TrainingGroup], ranks: int) -> list[list[TrainingGroup]]:
    """Deal whole groups out to ranks so that each has about the same number of tokens; the same on every rank."""
    shares: list[list[TrainingGroup]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for group in sorted(groups, key=lambda g: (-tokens(g), g.scored.group.prompt.index)):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += tokens(group)
    return [sorted(share, key=lambda g: g.scored.group.prompt.index) for share in shares]


def tokens(training: TrainingGroup) -> int:
    """Tokens of a group, its prompt counted once for each completion."""
    group = training.scored.group
    return sum(len(group.prompt_ids) + len(completion.token_ids) for completion in group.completions)


def rows_of(groups: Sequence[TrainingGroup], *, mask_truncated: bool) -> list[Row]:
    """The completions of `groups`; those of group i show images i. Of masked ones no token is trained."""
    rows = []
    for position, training in enumerate(groups):
        group = training.scored.group
        given = [False] * len(group.prompt_ids)
        for sample, (completion, advantage) in enumerate(zip(group.completions, training.advantages, strict=True)):
            trains = not (mask_truncated and completion.truncated)
            ids = group.prompt_ids + completion.token_ids
            sequence = TokenSequence(ids, given + [trains] * len(completion.token_ids), position)
            rows.append(Row(sequence, advantage, completion.logprobs, group.version, (group.prompt.index, sample)))
    return rows


def assemble(
    rows: Sequence[Row],
    images: Sequence[PromptImages],
    pad_id: int,
    features: Sequence[ImageFeatures] | None = None,
) -> Piece:
    """The pass over `rows`, with those of all `images`, or of their `features`, that they show."""
    batch = collate([row.sequence for row in rows], images, pad_id, features)
    reported = torch.zeros(batch.trained.shape)
    for number, row in enumerate(rows):
        end = len(row.sequence)
        reported[number, end - len(row.rollout_logprobs) : end] = torch.tensor(row.rollout_logprobs)
    return Piece(
        batch,
        torch.tensor([row.advantage for row in rows]),
        reported.masked_fill(~batch.trained, 0.0),
        torch.tensor([row.version for row in rows]),
        [row.completion for row in rows],
    )
