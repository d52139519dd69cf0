"""Morphology that a concept model drafts for images that nobody described.

Invariant: a draft is machine-made and marked so; conversations may be written from it, references of rewards never are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dermo_ray.checkpoints import file_sha256
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.annotate import Annotation
from dermo_ray.errors import UserError
from dermo_ray.morphology import SCHEMA_FOR_MODALITY

if TYPE_CHECKING:
    from dermo_ray.models.concepts import ConceptScorer  # only for its type: it brings torch along

_AT_ONCE = 64


def drafts(
    scorer: ConceptScorer, annotator: str, samples: Sequence[StoredSample], root: Path
) -> Iterator[tuple[str, Annotation]]:
    """The id of each sample, none of which has a morphology, and the likeliest one that the model sees in its image.

    Images are relative to `root`. Samples whose modality the model never learned are left out. `annotator` says which
    model it is.
    """
    known = [sample for sample in samples if SCHEMA_FOR_MODALITY[sample.modality] in scorer.schemas]
    for first in range(0, len(known), _AT_ONCE):
        together = known[first : first + _AT_ONCE]
        pictures = []
        for sample in together:
            with Image.open(root / sample.image) as file:
                pictures.append(file.convert("RGB"))
        for sample, seen in zip(together, scorer.concepts_of(pictures), strict=True):
            yield sample.id, Annotation(seen.likeliest(SCHEMA_FOR_MODALITY[sample.modality]), None, None, annotator)


def annotator_of(model: Path) -> str:
    """What samples and records say of a concept model's drafts: JSON with the checksum of its weights.

    Raises `UserError` where the folder holds no weights.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{model} holds no concept model: {weights.name} is missing")
    return json.dumps({"morphology": {"model": "concept model", "sha256": file_sha256(weights)}})
