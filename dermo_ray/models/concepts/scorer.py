"""The concept model as the consistency term of the reward asks it: an image is encoded once, for all its completions.

Invariants: what is said about an image does not depend on the images that are encoded with it; how well a diagnosis
follows from a morphology is the same to the last bit, whatever else is asked in the same batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from dermo_ray.errors import UserError
from dermo_ray.models.concepts.agreement import best_agreement, expected_agreement
from dermo_ray.models.concepts.configuration import ConceptModelConfig
from dermo_ray.models.concepts.data import pixels
from dermo_ray.models.concepts.encoders import load_processor
from dermo_ray.models.concepts.model import ConceptModel
from dermo_ray.models.concepts.vocabulary import SCHEMAS, likeliest, vector
from dermo_ray.morphology import Morphology, Schema

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageConcepts:
    """What the model sees in one image; a `Concepts` as the reward means it."""

    probabilities: Mapping[Schema, FloatArray]
    """Calibrated, [48] and [28]."""
    scorer: "ConceptScorer" = field(repr=False)

    def image_fit(self, morphology: Morphology) -> float:
        """The agreement that the stated morphology can expect, as a share of the best that any could; in [0, 1].

        See `dermo_ray.models.concepts.agreement`. Raises `UserError` for a schema that the model never learned.
        """
        self.scorer.check_learned(morphology.schema)
        expected = expected_agreement(morphology, self.probabilities[morphology.schema])
        return min(1.0, expected / self._best[morphology.schema])

    def likeliest(self, schema: Schema) -> Morphology:
        """The morphology that the model would state itself. Raises `UserError` for a schema that it never learned."""
        self.scorer.check_learned(schema)
        return likeliest(schema, self.probabilities[schema])

    def diagnosis_fit(self, morphology: Morphology, label: str) -> float:
        """See `ConceptScorer.diagnosis_fits`; the image plays no part in it."""
        return self.scorer.diagnosis_fits([(morphology, label)])[0]

    def diagnosis_fits(self, statements: Sequence[tuple[Morphology, str]]) -> list[float]:
        """See `ConceptScorer.diagnosis_fits`; the image plays no part in it."""
        return self.scorer.diagnosis_fits(statements)

    def knows(self, schema: Schema, label: str) -> bool:
        """Whether the model learned how `label` follows from concepts of `schema`."""
        return self.scorer.knows(schema, label)

    @cached_property
    def _best(self) -> dict[Schema, float]:
        return {schema: best_agreement(schema, self.probabilities[schema]) for schema in self.scorer.schemas}


class ConceptScorer:
    """A saved concept model, ready to look at images."""

    def __init__(self, model: ConceptModel, processor: Any, name: str = "the concept model") -> None:
        self._model = model.eval()
        self._processor = processor
        self._name = name

    @classmethod
    def of(cls, path: Path) -> "ConceptScorer":
        """The model in the folder `path`, on the GPU where this process has one.

        Raises `UserError` where the folder holds no concept model.
        """
        model = load_concept_model(path)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        return cls(model, load_processor(path), str(path))

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """The schemas that the model learned."""
        return tuple(schema for schema in SCHEMAS if schema in (self._model.config.schemas or ()))

    def check_learned(self, schema: Schema) -> None:
        """Raises `UserError` where there was no annotation in `schema` to learn from."""
        if schema not in self.schemas:
            raise UserError(
                f"{self._name} knows no {schema} concepts: train it on images that are annotated so, "
                "or leave the concept model out"
            )

    def concepts(self, image: Image.Image) -> ImageConcepts:
        """What the model sees in an image."""
        return self.concepts_of([image])[0]

    @torch.inference_mode()
    def concepts_of(self, images: Sequence[Image.Image]) -> list[ImageConcepts]:
        """What the model sees in each of several images, encoded in one pass."""
        batch = pixels(self._processor, [image.convert("RGB") for image in images]).to(self._model.device)
        output = self._model(batch)
        seen = {schema: output[schema].double().cpu().numpy() for schema in SCHEMAS}
        return [ImageConcepts({schema: seen[schema][row] for schema in SCHEMAS}, self) for row in range(len(images))]

    def knows(self, schema: Schema, label: str) -> bool:
        """Whether the linear head of `schema` met `label`."""
        return schema in self._heads and label in self._heads[schema]

    def diagnosis_fits(self, statements: Sequence[tuple[Morphology, str]]) -> list[float]:
        """p(label) / max p(any label) of each statement, by the linear head from its morphology; in [0, 1].

        1 where the label is the one that the head would name, 0 for a label that it never met.
        """
        fits = [0.0] * len(statements)
        for schema, head in self._heads.items():
            rows = [
                i for i, (morphology, label) in enumerate(statements) if morphology.schema == schema and label in head
            ]
            if rows:
                found = head.fits([statements[i] for i in rows])
                for row, fit in zip(rows, found, strict=True):
                    fits[row] = fit
        return fits

    @cached_property
    def _heads(self) -> dict[Schema, "DiagnosisHead"]:
        return {schema: DiagnosisHead.of(self._model, schema) for schema in SCHEMAS if schema in self._model.diagnosis}


@dataclass(frozen=True)
class DiagnosisHead:
    """The linear head of one schema, in double precision."""

    places: Mapping[str, int]
    """Where each label stands."""
    weight: FloatArray
    """Temperature included, [labels, concepts]."""
    bias: FloatArray
    """Temperature included, [labels]."""

    @classmethod
    def of(cls, model: ConceptModel, schema: Schema) -> "DiagnosisHead":
        """That of a model."""
        linear = cast(nn.Linear, model.diagnosis[schema])
        temperature = model.config.temperature_of(f"{schema}/diagnosis")
        weight, bias = (p.detach().double().cpu().numpy() / temperature for p in (linear.weight, linear.bias))
        return cls({label: place for place, label in enumerate(model.config.labels_of(schema))}, weight, bias)

    def __contains__(self, label: str) -> bool:
        return label in self.places

    def fits(self, statements: Sequence[tuple[Morphology, str]]) -> list[float]:
        """See `ConceptScorer.diagnosis_fits`; every label is one of the head's."""
        stated = np.array([vector(morphology) for morphology, _ in statements], dtype=np.float64)
        # a sum for each row, not a matrix product, whose rounding depends on how many rows there are
        logits = (stated[:, None, :] * self.weight).sum(axis=2) + self.bias
        named = logits[np.arange(len(statements)), [self.places[label] for _, label in statements]]
        return [float(fit) for fit in np.exp(named - logits.max(axis=1))]


def load_concept_model(path: Path) -> ConceptModel:
    """The concept model in a folder. Raises `UserError` where there is none."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no concept model: config.json is missing")
    config, _ = ConceptModelConfig.get_config_dict(path)
    if config.get("model_type") != ConceptModelConfig.model_type:
        raise UserError(f"{path} holds a model of type {config.get('model_type')}, no concept model: see jobs.concepts")
    model: ConceptModel = ConceptModel.from_pretrained(path, local_files_only=True)
    return model.eval()
