"""The measures of a concept model, as `evaluation.json` of its run holds them."""

from pathlib import Path
from typing import Literal

from dermo_ray.bench.statistics import Interval
from dermo_ray.models.concepts.calibration import Calibration
from dermo_ray.morphology import Schema
from dermo_ray.records import Record, Split

Source = Literal["annotation", "truth"]

MEASURES = Path("evaluation.json")


class ConceptScore(Record):
    """One SkinCon feature, or one value of a Derm7pt field."""

    present: int
    """Images that show it."""
    auroc: Interval | None
    """None where all images show it, or none does."""
    f1: float
    """Of the images where the model would state it: a feature whose probability is at least a half, the likeliest value
    of a field. 1 where neither side has any."""


class FieldScore(Record):
    """One Derm7pt field."""

    images: int
    accuracy: Interval
    majority: float
    """Share of the most frequent value: what one could score without looking."""
    values: dict[str, ConceptScore]
    """Each value against the others of the field."""


class FeatureScores(Record):
    """SkinCon, against one reference."""

    images: int
    mean_auroc: Interval | None
    """Over the features that some images show and others don't."""
    features: dict[str, ConceptScore]


class FieldScores(Record):
    """Derm7pt, against one reference."""

    images: int
    mean_accuracy: Interval
    """Over the fields; the mean of their accuracies."""
    fields: dict[str, FieldScore]


class ConceptScores(Record):
    """Both schemas, against one reference; None where no image has one."""

    skincon: FeatureScores | None
    derm7pt: FieldScores | None


class GivenScore(Record):
    """The diagnoses of the images that have a reference's concepts."""

    images: int
    given: Interval
    """Accuracy from the reference's concepts: what the linear head could reach if the eyes were perfect."""
    seen: Interval
    """Accuracy from the concepts that the model sees in the same images."""


class DiagnosisScore(Record):
    """The diagnoses of the images of one schema."""

    images: int
    majority: float
    """Share of the most frequent label."""
    seen: Interval
    """Accuracy from the concepts that the model sees in the image."""
    given: dict[Source, GivenScore]
    """For comparison, from the concepts of a reference, over the images that have one."""


class ToneScore(Record):
    """The images of one Fitzpatrick type."""

    images: int
    morphology: Interval | None
    """Agreement of the likeliest morphology with the reference: share of fields, or F1 of the features."""
    diagnosis: Interval | None
    """Accuracy from the concepts that the model sees in the image."""


class ConceptMeasures(Record):
    """What `evaluation.json` of a concept model holds."""

    split: Split
    images: int
    concepts: dict[Source, ConceptScores]
    """`truth` is there only where it differs from what annotators wrote."""
    diagnosis: dict[Schema, DiagnosisScore]
    skin_tone: dict[str, ToneScore]
    """By Fitzpatrick type, "1" to "6", against the truth where there is one."""
    calibration: dict[str, Calibration]
    """By head, against what annotators wrote; temperatures are those of the validation split."""
    weights: dict[Schema, dict[str, dict[str, float]]]
    """What the linear head learned: logits that each concept adds for a label against the others, largest first."""
