"""From answers to the measures of a task.

Invariants: an item without an answer is wrong; the order of the items does not matter; time grows linearly with them.
With `compat` the authors' rules take the place of ours, and what their scripts pass over is left out of the counts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from dermo_ray.bench import compat as authors
from dermo_ray.bench.tasks import hierarchy
from dermo_ray.bench.tasks.choice import Choice, chosen
from dermo_ray.bench.tasks.fairness import fairness
from dermo_ray.bench.tasks.items import Answer, BenchItem, Fault, Scored, TaskId
from dermo_ray.bench.tasks.registry import TASKS, Task
from dermo_ray.bench.tasks.tally import Tally, mean_accuracy, tallies
from dermo_ray.records import Record

_NEEDED: Mapping[TaskId, str] = MappingProxyType(
    {"t1.3": "concept", "t1.4": "concept", "t2.4": "subset", "t4": "skin_tone"}
)
"""The fact that items are grouped by in a task's measures."""


class TaskResult(Record):
    """The measures of one task, answered by one model."""

    task: TaskId
    metric: str
    """Which of the measures is the task's own."""
    value: float | None
    """That measure; None where it can't be computed, as fairness over a single group."""
    items: int
    """Items that count."""
    skipped: int
    """Items that do not count because the authors' scripts pass over them; 0 but in compatible scoring."""
    measures: dict[str, float]
    """Every measure that could be computed, by name; shares are in [0, 1]."""
    by: dict[str, dict[str, Tally]]
    """Right answers by `concept`, `label`, `subset`, `skin_tone`, `modality`, and of a walk by `step`."""
    unknown: dict[str, int]
    """How many items have no place in such a table, for those tables that have gaps and those the metric needs."""
    faults: dict[str, int]
    """Answers (of a walk: steps) that name no option, by reason."""


def score(item: BenchItem, answer: Answer | None, *, compat: bool = False) -> Scored:
    """What an answer is worth; None is no answer.

    Raises `ValueError` for an open item, which only a judge can score, and for an answer to another item.
    """
    if TASKS[item.task].scoring == "judge":
        raise ValueError(f"{item.id} is open: a judge scores it")
    if answer is not None and answer.item != item.id:
        raise ValueError(f"this answers {answer.item}, not {item.id}")
    texts = answer.texts if answer is not None else ()
    if len(texts) > len(item.questions):
        raise ValueError(f"{item.id} has {len(item.questions)} questions, not {len(texts)}")
    if compat and TASKS[item.task].scoring == "choice":
        return _score_as_the_authors(item, texts[0] if texts else None)
    choices = [
        _choice(item, place, texts[place], compat) if place < len(texts) else Choice(None, "no_answer")
        for place in range(len(item.questions))
    ]
    return Scored(
        item=item.id,
        extracted=tuple(
            None if choice.place is None else question.options[choice.place]
            for choice, question in zip(choices, item.questions, strict=True)
        ),
        right=tuple(
            choice.place is not None and choice.place == question.right
            for choice, question in zip(choices, item.questions, strict=True)
        ),
        faults=tuple(choice.fault for choice in choices),
    )


def score_all(items: Sequence[BenchItem], answers: Iterable[Answer], *, compat: bool = False) -> list[Scored]:
    """One score for each item, in their order; items that nothing answers are wrong, answers to others are ignored."""
    by_item = {answer.item: answer for answer in answers}
    return [score(item, by_item.get(item.id), compat=compat) for item in items]


def aggregate(
    items: Sequence[BenchItem], scored: Sequence[Scored], *, compat: bool = False, left_out: int = 0
) -> TaskResult:
    """The measures of one task, from its items and their scores in the same order.

    `left_out` are the rows that gave no item: with `compat` they are cases of a walk nevertheless, without a wrong step
    and without being free of one, as the authors divide by all rows of their file.

    Raises `ValueError` for no items, items of several tasks, or scores of other items.
    """
    if [item.id for item in items] != [verdict.item for verdict in scored]:
        raise ValueError("scores must belong to the items, in their order")
    if len({item.task for item in items}) != 1:
        raise ValueError(f"items of one task are needed, not of {sorted({item.task for item in items})}")
    task = TASKS[items[0].task]
    pairs = list(zip(items, scored, strict=True))
    kept = counted_by_the_authors(pairs) if compat else pairs
    flat = [right for _, verdict in kept for right in verdict.right]
    by, unknown = _tables(task, kept)
    measures: dict[str, float | None] = {
        "accuracy": sum(flat) / len(flat) if flat and task.scoring == "choice" else None,
        "macro_accuracy": mean_accuracy(by["concept"]) if task.id in ("t1.3", "t1.4") else None,
        "mean_subset_accuracy": mean_accuracy(by["subset"]) if task.id == "t2.4" else None,
    }
    if task.id == "t4":
        tones = by["skin_tone"]
        accuracies = {name: tally.accuracy for name, tally in tones.items()}
        measures["fairness"] = authors.fairness_score(accuracies) if compat else fairness(tones)
        measures["gap"] = max(accuracies.values()) - min(accuracies.values()) if len(accuracies) > 1 else None
    if task.scoring == "walk" and kept:
        wrong = [verdict.right.count(False) for _, verdict in kept]
        cases = len(kept) + (left_out if compat else 0)
        measures["step_accuracy"] = sum(flat) / len(flat)
        measures["avg_corrections"] = sum(wrong) / cases
        measures["pct_zero_correction"] = wrong.count(0) / cases
    if task.id == "t1.3" and compat and kept:
        said = [verdict.extracted[0] or "" for _, verdict in kept]
        measures["macro_f1"] = authors.macro_f1([item.reference[:1] for item, _ in kept], said)
    return TaskResult(
        task=task.id,
        metric=task.metric,
        value=measures.get(task.metric),
        items=len(kept),
        skipped=len(pairs) - len(kept),
        measures={name: value for name, value in measures.items() if value is not None},
        by={name: table for name, table in by.items() if table},
        unknown=unknown,
        faults=dict(Counter(fault for _, verdict in kept for fault in verdict.faults if fault is not None)),
    )


def _choice(item: BenchItem, place: int, text: str, compat: bool) -> Choice:
    question = item.questions[place]
    if TASKS[item.task].scoring == "walk":
        return hierarchy.step(question, text, compat=compat)
    return chosen(text, question.options)


def _score_as_the_authors(item: BenchItem, text: str | None) -> Scored:
    """A multiple choice by the first character, or in the fairness task by the letter before its ")"."""
    fault: Fault | None = None
    right: bool | None = None
    if text is not None:
        same = authors.same_option_head if item.task == "t4" else authors.same_first_character
        right = same(text, item.reference)
    if right is None:
        fault = "skipped"
    said = text.strip()[:1] if text else ""
    return Scored(item=item.id, extracted=(said or None,), right=(bool(right),), faults=(fault,))


def counted_by_the_authors(pairs: Sequence[tuple[BenchItem, Scored]]) -> list[tuple[BenchItem, Scored]]:
    """Without the rows that the authors' scripts pass over."""
    kept = [(item, verdict) for item, verdict in pairs if not verdict.skipped]
    task = pairs[0][0].task
    if task == "t4":
        return [(item, verdict) for item, verdict in kept if item.facts.skin_tone]
    if task in ("t1.3", "t1.4"):
        places = authors.last_of_each([item.facts.source_id or item.id for item, _ in kept])
        return [kept[place] for place in places]
    return kept


def _tables(
    task: Task, pairs: Sequence[tuple[BenchItem, Scored]]
) -> tuple[dict[str, dict[str, Tally]], dict[str, int]]:
    """Right answers by each fact, and how many items lack a fact that others have or that the metric needs."""
    by: dict[str, dict[str, Tally]] = {}
    unknown: dict[str, int] = {}
    for fact in ("concept", "label", "subset", "skin_tone", "modality"):
        values = [getattr(item.facts, fact) for item, _ in pairs]
        flags = [(value, right) for value, (_, verdict) in zip(values, pairs, strict=True) for right in verdict.right]
        by[fact] = tallies((value, right) for value, right in flags if value is not None)
        if None in values and (by[fact] or fact == _NEEDED.get(task.id)):
            unknown[fact] = values.count(None)
    if task.scoring == "walk":
        by["step"] = tallies((f"{place:02d}", right) for _, v in pairs for place, right in enumerate(v.right, start=1))
    return by, unknown
