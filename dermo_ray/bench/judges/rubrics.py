"""DermoBench's scores of open answers, from what a judge found: pure functions.

The formulas and numbers are those of the judge scripts that DermoGPT's authors released (`docs/judges.md` lists them).
T is the number of claims that a reference makes. Invariants: a score is in [0, 100]; no claim, no score.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

OpenTask = Literal["t1.1", "t1.2", "t3.1", "t3.2"]
"""The open tasks of DermoBench: description without and with morphology, reasoning without and with morphology."""

MAX_CLAIMS = 25
"""A reference is taken apart into at most this many claims."""

ClaimVerdict = Literal["supported", "partial", "vague", "contradicted", "missing"]

DiagnosisGrade = Literal[
    "exact_or_synonym",
    "parent_or_child",
    "sibling_or_close_differential",
    "same_superfamily",
    "unrelated_but_plausible",
    "wrong_system",
    "nonsense_or_no_answer",
]

DIAGNOSIS_SIMILARITY: Mapping[DiagnosisGrade, float] = MappingProxyType(
    {
        "exact_or_synonym": 1.0,
        "parent_or_child": 0.85,
        "sibling_or_close_differential": 0.7,
        "same_superfamily": 0.5,
        "unrelated_but_plausible": 0.3,
        "wrong_system": 0.1,
        "nonsense_or_no_answer": 0.0,
    }
)
"""How near a diagnosis is to the reference, in [0, 1]."""


@dataclass(frozen=True)
class Counts:
    """How many claims of a reference got which verdict, and how many statements beyond the reference are wrong.

    Raises `ValueError` for a negative count, and where there is no claim.
    """

    supported: int = 0
    partial: int = 0
    vague: int = 0
    contradicted: int = 0
    missing: int = 0
    incorrect_extras: int = 0

    def __post_init__(self) -> None:
        """Check the counts."""
        if min(vars(self).values()) < 0 or self.total == 0:
            raise ValueError(f"counts must be at least 0, and those of claims not all 0: {self}")

    @property
    def total(self) -> int:
        """T, the number of claims."""
        return self.supported + self.partial + self.vague + self.contradicted + self.missing


def text_score(counts: Counts) -> float:
    """The text of T1.1, T1.2 and T3.1: 100 max(0, recall - 0.5 penalty).

    recall = (S + 0.5 P) / T, penalty = min(1, (C + incorrect extras) / T). Vague claims count in T alone.
    """
    recall = (counts.supported + 0.5 * counts.partial) / counts.total
    penalty = min(1.0, (counts.contradicted + counts.incorrect_extras) / counts.total)
    return 100 * max(0.0, recall - 0.5 * penalty)


def lenient_text_score(counts: Counts) -> float:
    """The reasoning of T3.2: 100 max(0, recall - 0.5 (0.7 C / T) - 0.2 (0.4 M / T) - 0.2 (0.5 E / T)).

    recall = (S + 0.6 P + 0.3 V) / T; E are the incorrect extras.
    """
    recall = counts.supported + 0.6 * counts.partial + 0.3 * counts.vague
    penalty = 0.5 * 0.7 * counts.contradicted + 0.2 * 0.4 * counts.missing + 0.2 * 0.5 * counts.incorrect_extras
    return 100 * max(0.0, (recall - penalty) / counts.total)


Part = Literal["text", "morphology", "diagnosis"]
"""What is graded of an answer, each from 0 to 100."""

SHARES: Mapping[OpenTask, Mapping[Part, float]] = MappingProxyType(
    {
        "t1.1": MappingProxyType({"text": 1.0}),
        "t1.2": MappingProxyType({"text": 0.5, "morphology": 0.5}),
        "t3.1": MappingProxyType({"text": 0.5, "diagnosis": 0.5}),
        # 0.66 for the mean of reasoning and diagnosis, 0.34 for the morphology
        "t3.2": MappingProxyType({"text": 0.33, "diagnosis": 0.33, "morphology": 0.34}),
    }
)
"""The share of each part in the score of a task."""


def combined(task: OpenTask, parts: Mapping[Part, float]) -> float:
    """The score of an answer, in [0, 100], from its parts in [0, 100]: their mean, weighted by `SHARES`.

    A part that `parts` lacks is left out and the other shares grow; raises `ValueError` where none is left.
    """
    shares = {part: share for part, share in SHARES[task].items() if part in parts}
    if not shares:
        raise ValueError(f"a score of {task} needs one of {', '.join(SHARES[task])}")
    return math.fsum(share * parts[part] for part, share in shares.items()) / math.fsum(shares.values())


@dataclass(frozen=True)
class Verdict:
    """What a judge found in one answer; `morphology` in [0, 1] and `diagnosis` where the task has them."""

    counts: Counts
    morphology: float | None = None
    diagnosis: DiagnosisGrade | None = None


def graded(task: OpenTask, verdict: Verdict) -> dict[Part, float]:
    """The parts of an answer, each in [0, 100]; `combined` makes the score of them."""
    text = lenient_text_score if task == "t3.2" else text_score
    parts: dict[Part, float] = {"text": text(verdict.counts)}
    if verdict.morphology is not None:
        parts["morphology"] = 100 * verdict.morphology
    if verdict.diagnosis is not None:
        parts["diagnosis"] = 100 * DIAGNOSIS_SIMILARITY[verdict.diagnosis]
    return parts
