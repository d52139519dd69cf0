"""The evaluation as rows of a table: every measure before and after, the paired difference, and a verdict.

Invariant: every measure that was taken has a row, those that got worse included; a verdict says "better" or "worse"
only where the 95 % interval of the difference lies on one side of zero.
"""

from dataclasses import dataclass
from typing import Literal

from dermo_ray.bench.heldout import Evaluation, LabelCounts, Measured, Scores
from dermo_ray.bench.statistics import Interval

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Forest:
    """A difference and its interval as positions of 0 to 100 on an axis with zero at 50."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Row:
    """One measure."""

    name: str
    note: str
    before: Interval
    after: Interval
    difference: Interval
    verdict: Verdict
    forest: Forest


@dataclass(frozen=True)
class Section:
    """Rows under one heading."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """All measures of one way of decoding."""

    title: str
    prompts: int
    completions: tuple[int, int]
    sections: tuple[Section, ...]
    reach: float
    """The difference at either end of the forest's axis."""

    def named(self, verdict: Verdict) -> list[str]:
        """The measures with this verdict."""
        return [row.name for section in self.sections for row in section.rows if row.verdict == verdict]

    @property
    def lower(self) -> list[str]:
        """The measures that fell, though not clearly."""
        rows = [row for section in self.sections for row in section.rows]
        return [row.name for row in rows if row.verdict == "unclear" and row.difference.mean < 0]


def tables(evaluation: Evaluation) -> list[Table]:
    """A table for completions at temperature 1 and one for greedy ones, as far as both policies have them."""
    before, after, difference = evaluation.before, evaluation.after, evaluation.difference
    made = [
        _table("Sampled at temperature 1", before.sampled, after.sampled, difference.sampled, after.labels),
        _table("Greedy", before.greedy, after.greedy, difference.greedy, after.labels),
    ]
    return [table for table in made if table is not None]


def _table(
    title: str, before: Measured | None, after: Measured | None, difference: Scores | None, labels: LabelCounts | None
) -> Table | None:
    if before is None or after is None or difference is None:
        return None
    measures = {name: _measures(scores, labels) for name, scores in _sides(before, after, difference).items()}
    changes = [change for section in measures["difference"].values() for change in section.values()]
    reach = max([1e-9, *(abs(end) for change in changes for end in (change.low, change.high))])
    sections = []
    for heading, changed in measures["difference"].items():
        rows = []
        for (name, note), change in changed.items():
            old, new = measures["before"][heading][name, note], measures["after"][heading][name, note]
            rows.append(Row(name, note, old, new, change, verdict(change), _forest(change, reach)))
        if rows:
            sections.append(Section(heading, tuple(rows)))
    return Table(title, after.prompts, (before.completions, after.completions), tuple(sections), reach)


def _sides(before: Measured, after: Measured, difference: Scores) -> dict[str, Scores]:
    return {"before": before.scores, "after": after.scores, "difference": difference}


def _measures(scores: Scores, labels: LabelCounts | None) -> dict[str, dict[tuple[str, str], Interval]]:
    """The measures that apply: {heading: {(name, note): interval}}."""
    diagnosis: dict[tuple[str, str], Interval | None] = {}
    if labels is not None:
        majority = f"always the most frequent label: {labels.majority_accuracy:.3f}"
        constant = f"any one constant answer: {labels.chance:.3f}"
        diagnosis = {
            ("Accuracy", majority): scores.diagnosis_accuracy,
            ("Balanced accuracy", constant): scores.balanced_accuracy,
        }
    morphology: dict[tuple[str, str], Interval | None] = {
        (f"Agreement, {modality} images", ""): value for modality, value in scores.morphology.items()
    }
    morphology["SkinCon F1", "pooled over images"] = scores.skincon_f1
    sections: dict[str, dict[tuple[str, str], Interval | None]] = {
        "Overall": {
            ("Reward", "gated and weighted sum of the terms"): scores.reward,
            ("Format valid", "share of completions without a fault"): scores.format_valid,
        },
        "Reward terms": {(name.replace("_", " ").capitalize(), ""): value for name, value in scores.terms.items()},
        "Diagnosis": diagnosis,
        "Morphology": morphology,
        "Derm7pt fields": {(name, ""): value for name, value in scores.derm7pt.items()},
    }
    return {
        heading: {key: value for key, value in rows.items() if value is not None} for heading, rows in sections.items()
    }


def verdict(change: Interval) -> Verdict:
    """What a difference and its interval say."""
    if change.low > 0:
        return "better"
    return "worse" if change.high < 0 else "unclear"


def _forest(change: Interval, reach: float) -> Forest:
    return Forest(*(50 + 48 * value / reach for value in (change.low, change.mean, change.high)))
