"""What completions of one prompt state, finding by finding, beside the reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dermo_ray.bench.heldout import diagnosis_label
from dermo_ray.completion import Completion, parse
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class Answer:
    """What one completion stated about one finding; `right` is None where there is nothing to compare with."""

    text: str
    right: bool | None


@dataclass(frozen=True)
class Finding:
    """One line of the checklist: a Derm7pt field, a SkinCon feature or the diagnosis."""

    name: str
    reference: str
    answers: tuple[Answer, ...]
    """One of each completion, in their order."""


def checklist(truth: GroundTruth, texts: Sequence[str], taxonomy: Taxonomy) -> list[Finding]:
    """Every finding that the reference or one of the completions `texts` states something about."""
    return list(_findings(truth, [parse(text, truth.task) for text in texts], taxonomy))


def _findings(truth: GroundTruth, completions: Sequence[Completion], taxonomy: Taxonomy) -> Iterator[Finding]:
    if truth.task == "task3":
        reference = truth.final_label
        answers = tuple(_diagnosis(completion, reference, taxonomy) for completion in completions)
        yield Finding("Diagnosis", reference or "no reference", answers)
    stated, reference_morphology = [completion.morphology for completion in completions], truth.morphology
    schemas = {morphology.schema for morphology in (*stated, reference_morphology) if morphology is not None}
    if "derm7pt" in schemas:
        for name in DERM7PT_FIELDS:
            value = _field(reference_morphology, name)
            answers = tuple(_stated_field(morphology, name, value) for morphology in stated)
            yield Finding(name, value or "no reference", answers)
    if "skincon" in schemas:
        features = {
            name for morphology in (*stated, reference_morphology) if morphology for name in morphology.features
        }
        for name in sorted(features):
            present = None if reference_morphology is None else name in reference_morphology.features
            answers = tuple(_stated_feature(morphology, name, present) for morphology in stated)
            yield Finding(name, {True: "present", False: "absent", None: "no reference"}[present], answers)
    if any(morphology is not None and morphology.unknown for morphology in stated):
        counts = [0 if morphology is None else morphology.unknown for morphology in stated]
        yield Finding("Outside the vocabulary", "none", tuple(Answer(f"{n} stated", n == 0) for n in counts))


def _diagnosis(completion: Completion, reference: str | None, taxonomy: Taxonomy) -> Answer:
    stated = completion.diagnosis
    if reference is None:
        return Answer(stated or "none that can be read", None)
    right = stated is not None and diagnosis_label(stated, taxonomy) == diagnosis_label(reference, taxonomy)
    return Answer(stated or "none that can be read", right)


def _field(morphology: Morphology | None, name: str) -> str | None:
    return None if morphology is None else morphology.fields.get(name)


def _stated_field(morphology: Morphology | None, name: str, reference: str | None) -> Answer:
    value = _field(morphology, name)
    return Answer(value or "not stated", None if reference is None else value == reference)


def _stated_feature(morphology: Morphology | None, name: str, present: bool | None) -> Answer:
    """A feature that nobody stated is stated to be absent, except where no morphology could be read at all."""
    if morphology is None or morphology.schema != "skincon":
        return Answer("not stated", None if present is None else False)
    stated = name in morphology.features
    return Answer("present" if stated else "absent", None if present is None else stated == present)
