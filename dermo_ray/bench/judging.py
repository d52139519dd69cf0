"""Scores of the open tasks from responses: by the judge of the settings, or offline.

Invariants: equal answers to one reference are judged once and score alike; an answer without a verdict has no score.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from dermo_ray.bench.columns import group_of
from dermo_ray.bench.judges import Judgement, JudgeReport, OpenAnswer, OpenTask, compare_offline, judge
from dermo_ray.bench.judges.answers import Method as Judged
from dermo_ray.bench.judges.rubrics import Part
from dermo_ray.bench.measures import Bootstrap
from dermo_ray.bench.responses import Response
from dermo_ray.bench.statistics import Interval, bootstrap_mean
from dermo_ray.bench.tasks import TASKS, BenchItem, comparison, open_ended
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.records import Record
from dermo_ray.taxonomy import Taxonomy

Judgements = Mapping[OpenAnswer, Judgement | None]
"""What every open answer is worth; None where the judge gave no verdict."""

_OPEN: dict[str, OpenTask] = {"t1.1": "t1.1", "t1.2": "t1.2", "t3.1": "t3.1", "t3.2": "t3.2"}


class OpenScore(Record):
    """The answers of one method to an open task."""

    judged_by: Judged
    """Only figures of one judge compare; offline ones with none of the paper's."""
    score: Interval | None
    """0 to 100; None where nothing was judged."""
    parts: dict[Part, Interval]
    """The mean of each part, 0 to 100, over the answers whose reference has it."""
    items: int
    unjudged: int
    """Answers without a verdict, which have no score."""
    of_items: dict[str, float] = Field(default={})
    """The score of each item that has one, by which two policies are compared."""


class OpenPair(NamedTuple):
    """An open item and what was answered to it."""

    item: BenchItem
    answer: OpenAnswer


def open_answers(items: Iterable[BenchItem], responses: Iterable[Response]) -> list[OpenPair]:
    """The open ones of `items` with each response to them; an item without a response has a blank answer."""
    texts: dict[str, list[str]] = {}
    for response in responses:
        texts.setdefault(response.item, []).append(response.texts[0])
    return [
        OpenPair(item, OpenAnswer(_OPEN[item.task], item.reference, text))
        for item in items
        if TASKS[item.task].scoring == "judge"
        for text in texts.get(item.id, [""])
    ]


def judge_offline(pairs: Iterable[OpenPair], taxonomy: Taxonomy) -> dict[OpenAnswer, Judgement | None]:
    """The offline comparison of every answer; None where the reference has none of the task's parts."""
    judged: dict[OpenAnswer, Judgement | None] = {}
    for item, answer in pairs:
        stated, reference = comparison(item, answer.answer)
        comparable = reference.prose or reference.morphology or reference.diagnosis
        judged[answer] = compare_offline(answer.task, stated, reference, taxonomy) if comparable else None
    return judged


def for_judge(pairs: Iterable[OpenPair]) -> list[OpenAnswer]:
    """The answers that a judge can score, each once: those to a reference of more than a diagnosis."""
    answers = dict.fromkeys(pair.answer for pair in pairs)
    return [answer for answer in answers if open_ended.parts(answer.reference).prose]


async def judge_all(
    pairs: Sequence[OpenPair], settings: JudgeSettings, progress: Callable[[JudgeReport], None]
) -> tuple[dict[OpenAnswer, Judgement | None], JudgeReport]:
    """The judge's scores of every answer, and what came of its questions. Raises `UserError` as `judge` does."""
    answers = for_judge(pairs)
    report = await judge(answers, settings, progress)
    judged = dict.fromkeys((pair.answer for pair in pairs), None)
    return judged | dict(zip(answers, report.judgements, strict=True)), report


def open_score(
    items: Sequence[BenchItem], responses: Sequence[Response], judgements: Judgements, bootstrap: Bootstrap
) -> OpenScore:
    """The score of one method on the items of one open task; `responses` are that method's."""
    pairs = open_answers(items, responses)
    found = [(pair.item, judgement) for pair in pairs if (judgement := judgements[pair.answer]) is not None]
    scores = [judgement.score for _, judgement in found]
    parts: dict[Part, list[tuple[float, str]]] = {}
    for item, judgement in found:
        for part, value in judgement.parts.items():
            parts.setdefault(part, []).append((value, group_of(item)))
    groups = [group_of(item) for item, _ in found]
    return OpenScore(
        judged_by=found[0][1].method if found else "offline",
        score=bootstrap_mean(scores, groups=groups, **bootstrap._asdict()) if scores else None,
        parts={
            part: bootstrap_mean([v for v, _ in rows], groups=[group for _, group in rows], **bootstrap._asdict())
            for part, rows in parts.items()
        },
        items=len(found),
        unjudged=len(pairs) - len(found),
        of_items={item.id: judgement.score for item, judgement in found},
    )
