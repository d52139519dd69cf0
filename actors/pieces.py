"""From scored groups to the passes of one rank: who takes what of a batch, and how a share is cut up.

Invariants: every completion is in one piece of one rank; which, depends on the batch alone and not on the order in
which it came; the trained token ids are the sampled ones, after the prompt ids that the engine used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actors.messages import Sampled, TrainingGroup
from dermo_ray.models.batches import ImageFeatures, PromptImages, TokenSequence, VLMBatch, collate, untrained


@dataclass(frozen=True)
class Sample:
    """One completion to train on."""

    completion: Sampled
    trains: bool
    """False leaves its tokens out of the loss."""
    advantage: float
    version: int
    """The policy version that sampled it."""
    name: tuple[int, int]
    """The index of its prompt, and which of the prompt's completions it is."""


@dataclass(frozen=True)
class Strand:
    """A prompt and completions of it that share its pass through the model."""

    position: int
    """Of its group among those of the rank."""
    prompt_ids: list[int]
    samples: list[Sample]

    def __len__(self) -> int:
        """In tokens, the prompt's once."""
        return len(self.prompt_ids) + sum(len(sample.completion.token_ids) for sample in self.samples)


@dataclass(frozen=True)
class Piece:
    """One forward and backward pass: S completions of at most T tokens, as sequences of `batch`."""

    batch: VLMBatch
    mask: Tensor
    """[S, T] bool: the trained tokens of each completion, in the order of `batch.trained`."""
    advantages: Tensor
    """[S]."""
    rollout_logprobs: Tensor
    """[S, T], as the engine reported them, 0 where no token is trained."""
    versions: Tensor
    """[S] int64: the policy version that sampled each completion."""
    completions: list[tuple[int, int]]
    """[S]: the index of each one's prompt, and which of the prompt's completions it is."""

    @property
    def untrained(self) -> "Piece":
        """The same pass without a trained token, for a rank that has fewer passes than others."""
        return replace(
            self,
            batch=untrained(self.batch),
            mask=torch.zeros_like(self.mask),
            rollout_logprobs=torch.zeros_like(self.rollout_logprobs),
        )

    def to(self, device: torch.device) -> "Piece":
        """The same on `device`."""
        return replace(
            self,
            batch=self.batch.to(device),
            mask=self.mask.to(device),
            advantages=self.advantages.to(device),
            rollout_logprobs=self.rollout_logprobs.to(device),
            versions=self.versions.to(device),
        )

    def spread(self, values: Tensor) -> Tensor:
        """[S, T]: the values of trained tokens, [N] in the order of `batch.trained`, where they belong; else 0."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


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
    """Tokens of a group, its prompt's once."""
    group = training.scored.group
    return len(group.prompt_ids) + sum(len(completion.token_ids) for completion in group.completions)


def strands_of(
    groups: Sequence[TrainingGroup], token_budget: int, *, share: bool, mask_truncated: bool
) -> list[Strand]:
    """The completions of `groups`; with `share`, as many of a prompt's in a strand as the budget allows, longest first.

    A completion that is longer with its prompt stands alone. Of masked ones no token is trained.
    """
    strands = []
    for position, training in enumerate(groups):
        group = training.scored.group
        samples = [
            Sample(
                completion,
                not (mask_truncated and completion.truncated),
                advantage,
                group.version,
                (group.prompt.index, number),
            )
            for number, (completion, advantage) in enumerate(zip(group.completions, training.advantages, strict=True))
        ]
        of_group: list[Strand] = []
        for sample in sorted(samples, key=lambda s: (-len(s.completion.token_ids), s.name)):
            size = len(sample.completion.token_ids)
            roomy = (strand for strand in of_group if share and len(strand) + size <= token_budget)
            strand = next(roomy, None)
            if strand is None:
                strand = Strand(position, group.prompt_ids, [])
                of_group.append(strand)
            strand.samples.append(sample)
        strands += of_group
    return strands


def assemble(
    strands: Sequence[Strand],
    images: Sequence[PromptImages],
    pad_id: int,
    features: Sequence[ImageFeatures] | None = None,
) -> Piece:
    """The pass over `strands`; group i shows `images` i, or the tower has made `features` i of them already."""
    branched = any(len(strand.samples) > 1 for strand in strands)
    batch = collate([_sequence(strand, branched) for strand in strands], images, pad_id, features)
    samples = [sample for strand in strands for sample in strand.samples]
    longest = max(len(sample.completion.token_ids) for sample in samples)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    reported = torch.zeros(len(samples), longest)
    for row, sample in enumerate(samples):
        if sample.trains:
            mask[row, : len(sample.completion.token_ids)] = True
            reported[row, : len(sample.completion.token_ids)] = torch.tensor(sample.completion.logprobs)
    return Piece(
        batch,
        mask,
        torch.tensor([sample.advantage for sample in samples]),
        reported,
        torch.tensor([sample.version for sample in samples]),
        [sample.name for sample in samples],
    )


def _sequence(strand: Strand, branched: bool) -> TokenSequence:
    ids = list(strand.prompt_ids)
    trained, branches = [False] * len(ids), [0] * len(ids)
    for number, sample in enumerate(strand.samples, start=1):
        size = len(sample.completion.token_ids)
        ids += sample.completion.token_ids
        trained += [sample.trains] * size
        branches += [number] * size
    return TokenSequence(ids, trained, strand.position, branches if branched else None)
