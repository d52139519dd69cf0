"""Padded batches of images and token sequences, and how to cut a batch into micro-batches.

Invariant: an image is in a batch once, however many sequences show it; `image_index` says which sequence shows which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from dermo_ray.models.chat import answer_texts


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt (image placeholders expanded) and what follows; `trained` marks the tokens to predict."""

    ids: list[int]
    trained: list[bool]
    image: int
    """Position of its image in the batch's list of images."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class VLMBatch:
    """B sequences of at most L tokens, padded on the right, and the images they show."""

    input_ids: Tensor
    """[B, L] int64."""
    attention_mask: Tensor
    """[B, L] int64, 1 for tokens, 0 for padding."""
    trained: Tensor
    """[B, L] bool: tokens whose log-probability counts; never the first of a sequence."""
    image_index: Tensor
    """[B] int64: which image each sequence shows."""
    images: dict[str, Tensor]
    """What the image processor made of the images, `pixel_values` and so on, each image once."""

    def to(self, device: torch.device) -> "VLMBatch":
        """The same batch on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return VLMBatch(
            images={name: value.to(device) for name, value in moved.pop("images").items()},
            **{name: value.to(device) for name, value in moved.items()},
        )


def encode_conversations(
    processor: ProcessorMixin, conversations: Sequence[Sequence[Mapping[str, str]]], images: Sequence[Image.Image]
) -> tuple[list[TokenSequence], dict[str, Tensor]]:
    """Tokenise conversations about one image each, together with their images.

    Returns the sequences, conversation i showing image i, and the image processor's tensors.
    """
    pieces = [answer_texts(processor, turns) for turns in conversations]
    encoded = processor(text=[first[0][0] for first in pieces], images=list(images), padding=False)
    sequences = []
    for index, (prompt_ids, rest) in enumerate(zip(encoded["input_ids"], pieces, strict=True)):
        ids, trained = list(prompt_ids), [False] * len(prompt_ids)
        for text, is_answer in rest[1:]:
            more = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += more
            trained += [is_answer] * len(more)
        sequences.append(TokenSequence(ids, trained, index))
    return sequences, _image_tensors(encoded)


def encode_images(processor: ProcessorMixin, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """The image processor's tensors for `images`."""
    return _image_tensors(processor.image_processor(images=list(images), return_tensors="pt"))


def collate(sequences: Sequence[TokenSequence], images: dict[str, Tensor], pad_id: int) -> VLMBatch:
    """Pad `sequences` on the right to the longest."""
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    trained = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence.ids)
        attention_mask[row, : len(sequence)] = 1
        trained[row, : len(sequence)] = torch.tensor(sequence.trained)
    trained[:, 0] = False
    return VLMBatch(input_ids, attention_mask, trained, torch.tensor([s.image for s in sequences]), images)


def untrained(batch: VLMBatch) -> VLMBatch:
    """The same batch without a trained token: a forward pass whose loss is 0."""
    return replace(batch, trained=torch.zeros_like(batch.trained))


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut positions into runs of like length whose padded size is at most `token_budget` tokens.

    A sequence longer than the budget gets a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    cut: list[list[int]] = []
    for position in order:
        if cut and (len(cut[-1]) + 1) * lengths[cut[-1][0]] <= token_budget:
            cut[-1].append(position)
        else:
            cut.append([position])
    return cut


def _image_tensors(encoded: Mapping[str, Any]) -> dict[str, Tensor]:
    text = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {name: torch.as_tensor(value) for name, value in encoded.items() if name not in text}
