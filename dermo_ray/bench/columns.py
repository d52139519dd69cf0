"""Responses as columns, one row for each question that has a right answer, aligned over methods and policies.

Invariants: rows depend on the items alone, so that two columns over the same items compare row by row; an item without
a response is wrong, with confidence 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermo_ray.bench.responses import Response, Step
from dermo_ray.bench.statistics import FloatArray
from dermo_ray.bench.tasks import TASKS, BenchItem, Scored, score_all
from dermo_ray.taxonomy import Taxonomy, fold_label


@dataclass(frozen=True)
class Columns:
    """One method's answers to items of one task; [n] each, n questions that have a right answer."""

    items: list[BenchItem]
    """The item of each row."""
    places: list[int]
    """The question's place in its item."""
    groups: NDArray[np.str_]
    """What is drawn together: patient or lesion, else the image."""
    right: NDArray[np.bool_]
    confidence: FloatArray
    """In [0, 1]; 0 where no answer was read."""
    answers: list[str | None]
    """The option's text or the canonical diagnosis that was answered."""
    truth: list[str]
    """The same of the right answer."""
    abstained: NDArray[np.bool_]
    verdicts: tuple[Scored, ...] = ()
    """The scores of the items, in their order; empty for open tasks."""


def columns(items: Sequence[BenchItem], responses: Iterable[Response], taxonomy: Taxonomy) -> Columns | None:
    """The columns of one method's `responses` to `items` of one task; None where nothing has a right answer."""
    by_item = {response.item: response for response in responses}
    rows: list[tuple[BenchItem, int, bool, str | None, str, Step | None]] = []
    scored: list[Scored] = []
    if TASKS[items[0].task].scoring == "judge":
        for item in items:
            response = by_item.get(item.id)
            rows += _diagnosis_row(item, response.steps[0] if response else None, taxonomy)
    else:
        scored = score_all(items, (response.scored_answer for response in by_item.values()))
        for item, verdict in zip(items, scored, strict=True):
            rows += _option_rows(item, verdict, by_item.get(item.id))
    if not rows:
        return None
    return Columns(
        items=[row[0] for row in rows],
        places=[row[1] for row in rows],
        groups=np.array([group_of(row[0]) for row in rows]),
        right=np.array([row[2] for row in rows]),
        confidence=np.array([0.0 if row[5] is None else row[5].confidence or 0.0 for row in rows]),
        answers=[row[3] for row in rows],
        truth=[row[4] for row in rows],
        abstained=np.array([row[5] is None or row[5].abstain for row in rows]),
        verdicts=tuple(scored),
    )


def compat_columns(kept: Sequence[tuple[BenchItem, Scored]]) -> Columns:
    """The columns of greedy answers that were scored by the authors' rules; their confidence is not looked at."""
    rows = [(item, verdict, place) for item, verdict in kept for place in range(len(verdict.right))]
    choice = TASKS[kept[0][0].task].scoring == "choice"
    return Columns(
        items=[item for item, _, _ in rows],
        places=[place for _, _, place in rows],
        groups=np.array([group_of(item) for item, _, _ in rows]),
        right=np.array([verdict.right[place] for _, verdict, place in rows]),
        confidence=np.zeros(len(rows)),
        answers=[verdict.extracted[place] for _, verdict, place in rows],
        truth=[item.reference[:1] if choice else item.questions[place].answer or "" for item, _, place in rows],
        abstained=np.zeros(len(rows), dtype=np.bool_),
    )


def group_of(item: BenchItem) -> str:
    """What an item is not independent within."""
    return item.facts.group or (item.images[0] if item.images else item.id)


def _option_rows(
    item: BenchItem, verdict: Scored, response: Response | None
) -> list[tuple[BenchItem, int, bool, str | None, str, Step | None]]:
    steps = response.steps if response else ()
    return [
        (
            item,
            place,
            verdict.right[place],
            verdict.extracted[place],
            question.answer or "",
            steps[place] if place < len(steps) else None,
        )
        for place, question in enumerate(item.questions)
    ]


def _diagnosis_row(
    item: BenchItem, step: Step | None, taxonomy: Taxonomy
) -> list[tuple[BenchItem, int, bool, str | None, str, Step | None]]:
    """The diagnosis of a reasoning task; none for descriptions, and where no label is known."""
    if TASKS[item.task].axis != "reasoning" or item.facts.label is None:
        return []
    truth = taxonomy.canonical(item.facts.label) or item.facts.label
    stated = None if step is None or step.answer is None else taxonomy.canonical(step.answer) or step.answer
    right = stated is not None and fold_label(stated) == fold_label(truth)
    return [(item, 0, right, stated, truth, step)]
