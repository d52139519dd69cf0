"""Supervised fine-tuning's view of the policy: batches of whole conversations, and how well each token is foretold.

Invariant: the tokens that are trained on are the assistant's alone, with the one that ends its turn.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import ProcessorMixin

from dermo_ray.data.conversations import Conversation
from dermo_ray.errors import UserError
from dermo_ray.models.batches import VLMBatch, collate, encode_conversations, micro_batches, untrained
from dermo_ray.models.policy import PolicyScorer
from dermo_ray.models.symmetries import turned


@dataclass(frozen=True)
class Lesson:
    """A micro-batch of conversations, and the format of each."""

    batch: VLMBatch
    formats: Tensor
    """[B] int64: positions in the list of all formats."""

    @property
    def untrained(self) -> "Lesson":
        """The same without a trained token: a pass that adds nothing."""
        return replace(self, batch=untrained(self.batch))

    @property
    def token_formats(self) -> Tensor:
        """[N] int64: the format of every trained token, in row-major order."""
        return self.formats.repeat_interleave(self.batch.trained.sum(dim=1))

    def to(self, device: torch.device) -> "Lesson":
        """The same on `device`."""
        return Lesson(self.batch.to(device), self.formats.to(device))


class TokenScorer(PolicyScorer):
    """A policy whose forward pass is the log-probability of every trained token and whether it is the likeliest one."""

    def forward(self, batch: VLMBatch) -> Tensor:
        """[2, N] float, in row-major order: log-probabilities, and 1 for a token that is the likeliest, else 0."""
        return self.in_chunks(self.logprobs_and_hits, batch)

    @classmethod
    def logprobs_and_hits(cls, logits: Tensor, targets: Tensor) -> Tensor:
        """[2, n] from logits [n, vocabulary] and targets [n]."""
        hits = logits.detach().argmax(dim=-1) == targets
        return torch.stack([cls.logprobs(logits, targets), hits.to(logits.dtype)])


class Tally:
    """Sums over trained tokens, in all and by format, that become means over all ranks."""

    def __init__(self, formats: Sequence[str], device: torch.device) -> None:
        self._formats = formats
        self._sums = torch.zeros(3, len(formats), device=device)
        """Loss, hits and tokens of each format."""

    def add(self, lesson: Lesson, scores: Tensor) -> None:
        """Count the tokens of `lesson`; `scores` are [2, N], as `TokenScorer` gives them."""
        values = torch.stack([-scores[0], scores[1], torch.ones_like(scores[0])])
        self._sums.index_add_(1, lesson.token_formats, values)

    def means(self, total: Callable[[Iterable[float]], list[float]]) -> dict[str, float]:
        """Loss and accuracy of a token, and the same of each format that was seen; `total` adds up over ranks."""
        loss, hits, count = torch.tensor(total(self._sums.flatten().tolist()), dtype=torch.float64).view(
            self._sums.shape
        )
        means = {"loss": float(loss.sum() / count.sum()), "accuracy": float(hits.sum() / count.sum())}
        for position, name in enumerate(self._formats):
            if count[position] > 0:
                means[f"loss/{name}"] = float(loss[position] / count[position])
                means[f"accuracy/{name}"] = float(hits[position] / count[position])
        return means


def encode(
    processor: ProcessorMixin,
    conversations: Sequence[Conversation],
    token_budget: int,
    max_length: int,
    formats: Mapping[str, int],
    symmetries: Sequence[int] | None = None,
) -> list[Lesson]:
    """Micro-batches that hold `conversations`, longest first, each of at most `token_budget` padded tokens.

    `formats` numbers the formats; images are turned by the conversation's number in `symmetries`, if there are any.
    Raises `UserError` naming a conversation of more than `max_length` tokens, or one whose `<image>` marks and images
    don't match in number.
    """
    turns = [0] * len(conversations) if symmetries is None else symmetries
    shown = [
        [turned(image, turn) for image in conversation.read_images()]
        for conversation, turn in zip(conversations, turns, strict=True)
    ]
    encoded = encode_conversations(
        processor, [(c.id, c.turns, images) for c, images in zip(conversations, shown, strict=True)]
    )
    sequences, images = zip(*encoded, strict=True)
    for conversation, sequence in zip(conversations, sequences, strict=True):
        if len(sequence) > max_length:
            raise UserError(
                f"conversation {conversation.id} has {len(sequence)} tokens and max_length is {max_length}: "
                "raise max_length, or prepare smaller images (images.max_side)"
            )
    lessons = []
    for positions in micro_batches([len(sequence) for sequence in sequences], token_budget):
        batch = collate([sequences[position] for position in positions], images, processor.tokenizer.pad_token_id)
        lessons.append(Lesson(batch, torch.tensor([formats[conversations[p].format] for p in positions])))
    return lessons
