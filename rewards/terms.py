"""The terms of the MAVIC reward: pure functions of one scored case, each in [0, 1].

Invariant: whether a term applies (is not None) depends on the reference, the settings and the concept model, never
on what the policy wrote, so that no completion can choose what it is judged by.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dermo_ray.completion import Completion
from dermo_ray.config import RewardConfig
from dermo_ray.morphology import SCHEMA_FOR_MODALITY, Morphology, agreement
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy, fold_label
from rewards.concepts import Concepts


@dataclass(frozen=True)
class Case:
    """Everything a term may look at: one completion, its reference, and the means to compare them."""

    completion: Completion
    truth: GroundTruth
    config: RewardConfig
    taxonomy: Taxonomy
    concepts: Concepts | None = None
    diagnosis_fit: float | None = None
    """What `concepts` says of the `statement`, which it is asked for all completions of a batch at once."""

    @property
    def schema_is_right(self) -> bool:
        """Whether a morphology is stated, in the schema of the image's modality."""
        morphology = self.completion.morphology
        return morphology is not None and morphology.schema == SCHEMA_FOR_MODALITY[self.truth.modality]

    @property
    def statement(self) -> tuple[Morphology, str] | None:
        """Morphology and canonical label, where the task asks for both and both can be compared with an image."""
        morphology, stated = self.completion.morphology, self.completion.diagnosis
        if self.truth.task != "task3" or morphology is None or stated is None or not self.schema_is_right:
            return None
        label = self.taxonomy.canonical(stated)
        return None if label is None else (morphology, label)

    @property
    def faults(self) -> tuple[str, ...]:
        """The completion's faults, and `wrong_schema`, which depends on the modality."""
        wrong = self.completion.morphology is not None and not self.schema_is_right
        return (*self.completion.faults, "wrong_schema") if wrong else self.completion.faults

    @property
    def diagnosis(self) -> str | None:
        """The stated label: canonical where it is in the tree, else as it was written."""
        stated = self.completion.diagnosis
        return None if stated is None else self.taxonomy.canonical(stated) or stated


Term = Callable[[Case], float | None]


def format_term(case: Case) -> float:
    """1 less the cost of each fault, at least 0."""
    return max(0.0, 1.0 - sum(getattr(case.config.faults, fault) for fault in case.faults))


def diagnosis_term(case: Case) -> float | None:
    """1 where the stated label is the reference label, by any of its names; for task3 with a reference label."""
    reference = case.truth.final_label
    if case.truth.task != "task3" or reference is None:
        return None
    stated = case.completion.diagnosis
    if stated is None:
        return 0.0
    # A reference that is not in the tree is still a reference: it is compared by its letters.
    known = case.taxonomy.canonical(reference)
    return float(case.taxonomy.canonical(stated) == known if known else fold_label(stated) == fold_label(reference))


def taxonomy_term(case: Case) -> float | None:
    """Closeness of stated and reference label in the tree; for task3 with a reference label in the tree."""
    reference = case.truth.final_label
    if case.truth.task != "task3" or reference is None or case.taxonomy.canonical(reference) is None:
        return None
    stated = case.completion.diagnosis
    return 0.0 if stated is None else case.taxonomy.similarity(stated, reference)


def morphology_term(case: Case) -> float | None:
    """Agreement with the annotation; where the image has one that is whole, in the schema of its modality."""
    reference = case.truth.comparable_morphology
    if reference is None:
        return None
    return agreement(case.completion.morphology, reference) if case.schema_is_right else 0.0


def consistency_term(case: Case) -> float | None:
    """Stated morphology given the image, times stated diagnosis given stated morphology; with a concept model.

    task1 states no diagnosis, so only the first factor is left.
    """
    if case.concepts is None:
        return None
    morphology = case.completion.morphology
    if morphology is None or not case.schema_is_right:
        return 0.0
    if case.truth.task == "task1":
        return case.concepts.image_fit(morphology)
    if case.diagnosis_fit is None:
        return 0.0
    return case.concepts.image_fit(morphology) * case.diagnosis_fit


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "format": format_term,
        "diagnosis": diagnosis_term,
        "taxonomy": taxonomy_term,
        "morphology": morphology_term,
        "consistency": consistency_term,
    }
)
