"""The images of a prepared folder with what is known about them, as tensors that the concept model learns from.

Invariants: what nobody stated is marked as not observed, never taken for absent; the modality decides the schema, so an
image never counts for the concepts of the other one; what a machine stated counts only where it is asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from dermo_ray.data.conversations import content_hash
from dermo_ray.data.corpus import SAMPLES_FILE
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.tables import stored_samples
from dermo_ray.errors import UserError
from dermo_ray.models.concepts.vocabulary import CONCEPTS, SCHEMAS, vector
from dermo_ray.models.symmetries import turned
from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Morphology, Schema
from dermo_ray.records import Split

NO_LABEL = -100
"""The target that cross-entropy ignores."""


@dataclass(frozen=True)
class Statements:
    """One morphology an image, as far as there is one."""

    values: dict[Schema, Tensor]
    """What is stated, bool [N, 48] and [N, 28]; all false where nothing is."""
    observed: dict[Schema, Tensor]
    """Which images have a morphology in the schema, bool [N]."""

    @classmethod
    def of(cls, morphologies: Sequence[Morphology | None], schemas: Sequence[Schema]) -> "Statements":
        """Encode one morphology (or None) an image; one in another schema than the image's is left out."""
        count = len(morphologies)
        values = {schema: np.zeros((count, len(names)), dtype=bool) for schema, names in CONCEPTS.items()}
        observed = {schema: np.zeros(count, dtype=bool) for schema in SCHEMAS}
        for row, (morphology, schema) in enumerate(zip(morphologies, schemas, strict=True)):
            if morphology is not None and morphology.schema == schema:
                values[schema][row] = vector(morphology)
                observed[schema][row] = True
        return cls(_tensors(values), _tensors(observed))


@dataclass(frozen=True)
class Targets:
    """What a batch of images is to be taught."""

    concepts: dict[Schema, Tensor]
    """0 or 1, float [B, concepts]."""
    observed: dict[Schema, Tensor]
    """Whether the image has an annotation in the schema, 0 or 1, float [B]."""
    labels: dict[Schema, Tensor]
    """Index of the diagnosis among the schema's labels, or `NO_LABEL`, [B]."""

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        moved = {f.name: {k: v.to(device) for k, v in getattr(self, f.name).items()} for f in fields(self)}
        return Targets(**moved)

    def counts(self) -> dict[str, int]:
        """How many images count for each head, named `SCHEMA` and `SCHEMA/diagnosis`."""
        counts: dict[str, int] = {}
        for schema in SCHEMAS:
            counts[schema] = int(self.observed[schema].sum())
            counts[f"{schema}/diagnosis"] = int((self.labels[schema] != NO_LABEL).sum())
        return counts


class ConceptSamples:
    """The images of one split of a prepared folder; annotations by machines are there only if `by_machine` says so."""

    def __init__(self, samples: Sequence[StoredSample], prepared: Path, by_machine: bool = False) -> None:
        self.ids = [sample.id for sample in samples]
        self.groups = [sample.group for sample in samples]
        self.images = [prepared / sample.image for sample in samples]
        self.schemas: list[Schema] = [SCHEMA_FOR_MODALITY[sample.modality] for sample in samples]
        self.labels = [sample.label for sample in samples]
        self.skin_tones = [sample.skin_tone for sample in samples]
        known = [by_machine or not sample.annotated_by_machine for sample in samples]
        self.left_out = known.count(False)
        """Images whose annotation is left out because a machine made it."""
        stated = [sample.annotation if known else None for sample, known in zip(samples, known, strict=True)]
        self.annotation = Statements.of(stated, self.schemas)
        self.truth = Statements.of([sample.morphology for sample in samples], self.schemas)

    @classmethod
    def read(cls, prepared: Path, split: Split, by_machine: bool = False) -> "ConceptSamples":
        """Raises `UserError` where `prepared` is no prepared folder or has no image in the split."""
        content_hash(prepared)
        table = pq.read_table(prepared / SAMPLES_FILE)
        samples = list(stored_samples(table.filter(pc.equal(table["split"], split))))
        if not samples:
            raise UserError(f"{prepared} has no image in its {split} split: prepare more images, or a larger share")
        return cls(samples, prepared, by_machine)

    def __len__(self) -> int:
        return len(self.ids)

    def vocabulary(self) -> dict[Schema, list[str]]:
        """The diagnoses that occur, sorted, of each schema that has at least two."""
        found: dict[Schema, set[str]] = {schema: set() for schema in SCHEMAS}
        for schema, label in zip(self.schemas, self.labels, strict=True):
            if label is not None:
                found[schema].add(label)
        return {schema: sorted(labels) for schema, labels in found.items() if len(labels) > 1}

    def annotated_schemas(self) -> list[Schema]:
        """The schemas that at least one annotation is in."""
        return [schema for schema in SCHEMAS if bool(self.annotation.observed[schema].any())]

    def targets(self, indices: Sequence[int], vocabulary: Mapping[Schema, list[str]]) -> Targets:
        """What the images at `indices` teach; a label that is not in `vocabulary` teaches nothing."""
        places = {schema: {label: i for i, label in enumerate(vocabulary.get(schema, ()))} for schema in SCHEMAS}
        rows = torch.tensor(indices, dtype=torch.long)
        labels = {schema: torch.full((len(indices),), NO_LABEL) for schema in SCHEMAS}
        for row, index in enumerate(indices):
            schema, label = self.schemas[index], self.labels[index]
            if label is not None:
                labels[schema][row] = places[schema].get(label, NO_LABEL)
        return Targets(
            {schema: self.annotation.values[schema][rows].float() for schema in SCHEMAS},
            {schema: self.annotation.observed[schema][rows].float() for schema in SCHEMAS},
            labels,
        )


def pixel_batches(
    images: Sequence[Path],
    processor: Any,
    batches: Iterable[tuple[Sequence[int], Sequence[int] | None]],
    threads: int,
) -> Iterator[Tensor]:
    """Pixels [B, 3, height, width] for each batch of indices into `images`, the next one read while one is in use.

    With every batch come the symmetries by which its images are turned (0 to 7 each), or None. `threads` read files.
    """
    with ThreadPoolExecutor(threads) as readers:
        upcoming: list[Future[Image.Image]] | None = None
        for indices, turns in batches:
            reading = [
                readers.submit(_read, images[index], turn)
                for index, turn in zip(indices, turns or [0] * len(indices), strict=True)
            ]
            if upcoming is not None:
                yield pixels(processor, [future.result() for future in upcoming])
            upcoming = reading
        if upcoming is not None:
            yield pixels(processor, [future.result() for future in upcoming])


def pixels(processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """What the encoder takes, [B, 3, height, width], from RGB images of any size."""
    tensor: Tensor = processor(images=list(images), return_tensors="pt").pixel_values
    return tensor


def _read(path: Path, symmetry: int) -> Image.Image:
    with Image.open(path) as file:
        return turned(file.convert("RGB"), symmetry)


def _tensors(arrays: Mapping[Schema, np.ndarray[Any, Any]]) -> dict[Schema, Tensor]:
    return {schema: torch.from_numpy(array) for schema, array in arrays.items()}
