"""What the consistency term asks of a concept model, and where it gets it for the images of a prepared folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Modality, Morphology


class Concepts(Protocol):
    """The concept probabilities of one image, with the linear diagnosis head; both answers lie in [0, 1].

    One that has `diagnosis_fits` as well, for a list of (morphology, label), is asked once for all completions. One
    that has `knows`, for a schema and a canonical label, is not asked about diagnoses where it does not know the
    right one.
    """

    def image_fit(self, morphology: Morphology) -> float:
        """How well a stated morphology fits what the model sees in the image."""
        ...

    def diagnosis_fit(self, morphology: Morphology, label: str) -> float:
        """How well a canonical label follows from a stated morphology, whatever the image shows."""
        ...


def diagnosis_fits(concepts: Concepts, statements: Sequence[tuple[Morphology, str]]) -> list[float]:
    """The `diagnosis_fit` of each statement, in one call where `concepts` takes them all."""
    together = getattr(concepts, "diagnosis_fits", None)
    if together is None:
        return [concepts.diagnosis_fit(morphology, label) for morphology, label in statements]
    fits: list[float] = together(statements)
    return fits


def knows(concepts: Concepts, modality: Modality, label: str) -> bool:
    """Whether `concepts` can tell how a canonical label follows from a morphology; one that does not say so can."""
    known = getattr(concepts, "knows", None)
    return known is None or bool(known(SCHEMA_FOR_MODALITY[modality], label))


class FolderConcepts:
    """A concept model, loaded once, and the prepared folder whose images it looks at."""

    def __init__(self, model: Path, data: Path) -> None:
        """Load the model of the folder `model`."""
        from dermo_ray.models.concepts import ConceptScorer  # only here: it brings torch along

        self._scorer = ConceptScorer.of(model)
        self._data = data

    def of(self, image: str, modality: Modality) -> Concepts | None:
        """Decode and encode one image, named as the records do; every completion about it shares the result.

        None where the model never learned the schema of the image's modality: the term does not apply then.
        """
        if SCHEMA_FOR_MODALITY[modality] not in self._scorer.schemas:
            return None
        with Image.open(self._data / image) as file:
            return self._scorer.concepts(file.convert("RGB"))
