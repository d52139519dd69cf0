"""Padded batches of images and token sequences, and how to cut sequences into micro-batches.

Invariants: the images of a prompt are in a batch once, however many sequences show them; `image_index` says which
sequence shows which prompt's images. A sequence may be a prompt and several continuations of it, its branches, side by
side: each is to be read as if it followed the prompt alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from dermo_ray.errors import UserError
from dermo_ray.models.chat import answer_texts

_GRID = "image_grid_thw"
"""[images, 3]: how many patches each image has, in time, down and across."""
_TEXT_TENSORS = ("input_ids", "attention_mask")
"""What a processor returns beside the image processor's tensors."""


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt (image placeholders expanded) and what follows; `trained` marks the tokens to predict."""

    ids: list[int]
    trained: list[bool]
    images: int
    """Position of its prompt's images among those of all prompts."""
    branches: list[int] | None = None
    """Which continuation each token belongs to, from 1, and 0 for the prompt; None where one follows alone."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PromptImages:
    """All images of one prompt, of whatever sizes, as the image processor made them."""

    tensors: dict[str, Tensor]
    """`pixel_values` and so on."""
    count: int
    """How many images."""


@dataclass(frozen=True)
class ImageFeatures:
    """What a vision tower made of one prompt's images, in the order of their placeholders."""

    tokens: Tensor
    """[image tokens, width]."""
    levels: tuple[Tensor, ...] = ()
    """DeepStack: what the first layers of the language model are given besides, [image tokens, width] each."""


@dataclass
class VLMBatch:
    """B sequences of at most L tokens, padded on the right, and the images of the P prompts they begin with."""

    input_ids: Tensor
    """[B, L] int64."""
    attention_mask: Tensor
    """[B, L] int64, 1 for tokens, 0 for padding."""
    trained: Tensor
    """[B, L] bool: tokens whose log-probability counts; never the first of a sequence."""
    image_index: Tensor
    """[B] int64: which prompt's images each sequence shows."""
    images: dict[str, Tensor]
    """What the image processor made of the images, prompt by prompt, each image once."""
    image_counts: list[int]
    """[P]: how many images each prompt has."""
    branches: Tensor | None = None
    """[B, L] int64: which continuation of its prompt each token belongs to, from 1; 0 for the prompt, -1 for padding.
    None where sequences have no branches."""
    features: list[ImageFeatures] | None = None
    """[P]: what the vision tower made of them, where it has seen them already."""

    def to(self, device: torch.device) -> "VLMBatch":
        """The same batch on `device`; features are where the vision tower is."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            trained=self.trained.to(device),
            image_index=self.image_index.to(device),
            branches=None if self.branches is None else self.branches.to(device),
            images={name: value.to(device) for name, value in self.images.items()},
        )


@dataclass
class _Piece:
    """A part of a conversation's text, trained on as a whole or not at all, and what the processor makes of it."""

    text: str
    trained: bool
    images: Sequence[Image.Image]
    ids: list[int] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def encode_conversations(
    processor: ProcessorMixin, conversations: Sequence[tuple[str, Sequence[Mapping[str, str]], Sequence[Image.Image]]]
) -> list[tuple[TokenSequence, PromptImages]]:
    """Tokenise conversations, each its name, its turns, and the images that its human turns show in order.

    There is one `<image>` for each. Sequence i shows images i. Raises `UserError` naming a conversation whose turns and
    images don't match in number.
    """
    cut = [_pieces(processor, name, turns, images) for name, turns, images in conversations]
    pieces = [piece for own in cut for piece in own]
    # a call has its price, whatever it is about
    if plain := [piece for piece in pieces if not piece.images]:
        tokenizer = processor.tokenizer
        encoded = tokenizer([piece.text for piece in plain], add_special_tokens=False)
        for piece, ids in zip(plain, encoded["input_ids"], strict=True):
            piece.ids = ids
    shown = [piece for piece in pieces if piece.images]
    at_once = len(shown) if _GRID in processor.model_input_names else 1
    for start in range(0, len(shown), at_once):
        _encode_shown(processor, shown[start : start + at_once])
    found = []
    for position, own in enumerate(cut):
        seen = [piece for piece in own if piece.images]
        tensors = {name: torch.cat([piece.tensors[name] for piece in seen]) for name in seen[0].tensors}
        sequence = TokenSequence(
            [token for piece in own for token in piece.ids],
            [piece.trained for piece in own for _ in piece.ids],
            position,
        )
        found.append((sequence, PromptImages(tensors, sum(len(piece.images) for piece in seen))))
    return found


def _pieces(
    processor: ProcessorMixin, name: str, turns: Sequence[Mapping[str, str]], images: Sequence[Image.Image]
) -> list[_Piece]:
    placeholder = processor.image_token  # type: ignore[attr-defined]  # those of vision-language models have it
    texts = answer_texts(processor, turns)
    ends = list(accumulate((text.count(placeholder) for text, _ in texts), initial=0))
    if ends[-1] != len(images) or not images:
        raise UserError(
            f"conversation {name}: it shows <image> {ends[-1]} times and has {len(images)} images: "
            "they must be as many, at least 1"
        )
    return [
        _Piece(text, is_answer, images[start:end])
        for (text, is_answer), (start, end) in zip(texts, pairwise(ends), strict=True)
    ]


def _encode_shown(processor: ProcessorMixin, pieces: Sequence[_Piece]) -> None:
    """Encode pieces that show images; several at once only where a grid tells which rows are whose."""
    images = [list(piece.images) for piece in pieces]
    encoded = processor(
        text=[piece.text for piece in pieces], images=images, padding=False, return_mm_token_type_ids=False
    )
    for piece, ids in zip(pieces, encoded["input_ids"], strict=True):
        piece.ids = ids
    tensors = _image_tensors(encoded)
    if len(pieces) == 1:
        pieces[0].tensors = tensors
        return
    grids = tensors[_GRID].split([len(own) for own in images])
    patches = [int(own.prod(dim=-1).sum()) for own in grids]
    for name, tensor in tensors.items():
        parts = grids if name == _GRID else tensor.split(patches)
        for piece, part in zip(pieces, parts, strict=True):
            piece.tensors[name] = part


def encode_images(processor: ProcessorMixin, images: Sequence[Image.Image]) -> PromptImages:
    """The images of one prompt as the image processor makes them."""
    encoded = processor.image_processor(images=list(images), return_tensors="pt")
    return PromptImages(_image_tensors(encoded), len(images))


def collate(
    sequences: Sequence[TokenSequence],
    images: Sequence[PromptImages],
    pad_id: int,
    features: Sequence[ImageFeatures] | None = None,
) -> VLMBatch:
    """Pad `sequences` on the right to the longest; of `images` (and their `features`), take those that they show.

    Either all sequences have branches or none has. Images whose features are given are not handed over again, but for
    what tells their sizes.
    """
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    trained = torch.zeros_like(input_ids, dtype=torch.bool)
    branches = None if sequences[0].branches is None else torch.full_like(input_ids, -1)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence.ids)
        attention_mask[row, : len(sequence)] = 1
        trained[row, : len(sequence)] = torch.tensor(sequence.trained)
        if branches is not None:
            branches[row, : len(sequence)] = torch.tensor(sequence.branches)
    trained[:, 0] = False
    shown = sorted({sequence.images for sequence in sequences})
    names = [name for name in images[shown[0]].tensors if features is None or name == _GRID]
    return VLMBatch(
        input_ids,
        attention_mask,
        trained,
        torch.tensor([shown.index(sequence.images) for sequence in sequences]),
        {name: torch.cat([images[position].tensors[name] for position in shown]) for name in names},
        [images[position].count for position in shown],
        branches,
        None if features is None else [features[position] for position in shown],
    )


def places_in_branches(branches: Tensor) -> Tensor:
    """[B, L]: how many tokens of its own branch stand before each token of `branches` [B, L]."""
    columns = torch.arange(branches.shape[1], device=branches.device).expand_as(branches)
    begins = torch.ones_like(branches, dtype=torch.bool)
    begins[:, 1:] = branches[:, 1:] != branches[:, :-1]
    return columns - columns.masked_fill(~begins, 0).cummax(dim=1).values


def untrained(batch: VLMBatch) -> VLMBatch:
    """The same batch without a trained token: a forward pass whose loss is 0."""
    return replace(batch, trained=torch.zeros_like(batch.trained))


def micro_batches(lengths: Sequence[int], token_budget: int, prompts: Sequence[int] | None = None) -> list[list[int]]:
    """Cut positions into runs of like length whose padded size is at most `token_budget` tokens.

    With `prompts`, the prompt of each, sequences of one prompt stay together as far as the budget goes: an image then
    has to be encoded in few runs, for more padding. A sequence longer than the budget gets a run of its own.
    """
    belongs = range(len(lengths)) if prompts is None else prompts
    longest: dict[int, int] = {}
    for prompt, length in zip(belongs, lengths, strict=True):
        longest[prompt] = max(length, longest.get(prompt, 0))
    order = sorted(range(len(lengths)), key=lambda i: (-longest[belongs[i]], belongs[i], -lengths[i], i))
    cut: list[list[int]] = []
    width = 0
    for position in order:
        wider = max(width, lengths[position])
        if cut and (len(cut[-1]) + 1) * wider <= token_budget:
            cut[-1].append(position)
            width = wider
        else:
            cut.append([position])
            width = lengths[position]
    return cut


def _image_tensors(encoded: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: _as_tensor(value) for name, value in encoded.items() if name not in _TEXT_TENSORS}


def _as_tensor(value: Any) -> Tensor:
    """One tensor; some families' processors give a list of them, one an image."""
    return torch.stack(value) if isinstance(value, list) and isinstance(value[0], Tensor) else torch.as_tensor(value)
