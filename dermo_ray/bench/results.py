"""What `bench.json` holds, and how a task's part of it is made of responses.

Invariant: everything here is a function of items, responses and judgements, so that figures can be made again from what
is kept.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from dermo_ray.bench.breakdown import ClassScore, GroupScore, by_class
from dermo_ray.bench.columns import Columns, columns
from dermo_ray.bench.confusion import Confusion, confusion
from dermo_ray.bench.fairness import Fairness
from dermo_ray.bench.judging import Judgements, OpenScore, open_score
from dermo_ray.bench.measures import (
    Bootstrap,
    MethodDifference,
    MethodMeasures,
    compat_intervals,
    differences,
    fairness_of,
    intervals,
    method_measures,
    tables,
)
from dermo_ray.bench.paired import PairedComparison
from dermo_ray.bench.published import PublishedTable
from dermo_ray.bench.responses import Response, methods_of
from dermo_ray.bench.statistics import Interval
from dermo_ray.bench.stream import Adapted, adapted
from dermo_ray.bench.tasks import TASKS, BenchItem, TaskId, TaskResult, aggregate, score_all
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.records import Record
from dermo_ray.taxonomy import Taxonomy


class TaskReport(Record):
    """One policy on one task."""

    task: TaskId
    title: str
    axis: str
    items: int
    greedy: TaskResult | None = None
    """The task's own measures, from the one greedy answer that published figures are made of; None where it is open."""
    intervals: dict[str, Interval] = Field(default={})
    """Of those measures."""
    compat: TaskResult | None = None
    """The same answers under the rules of the authors' scripts."""
    compat_intervals: dict[str, Interval] = Field(default={})
    """Of those measures that are means, and of t2.4 the accuracy on each data set."""
    scores: dict[Method, OpenScore] = Field(default={})
    """Of open tasks."""
    methods: dict[Method, MethodMeasures]
    differences: list[MethodDifference] = Field(default=[])
    adapted: Adapted | None = None
    """CCT with its posteriors corrected over the stream of items, where `cct.adaptation` asks for it."""
    by: dict[Method, dict[str, dict[str, GroupScore]]] = Field(default={})
    """Accuracy of each method over groups of items, such as skin tones."""
    classes: dict[str, ClassScore] = Field(default={})
    """Greedy recall and precision of each diagnosis."""
    fairness: dict[Method, Fairness] = Field(default={})
    """Over skin tones, where they are known."""
    confusion: Confusion | None = None
    """Of greedy diagnoses."""


class PolicyReport(Record):
    """One policy on all tasks."""

    name: str
    where: str
    """The checkpoint, model or server behind the name."""
    fingerprint: str
    counts: dict[str, Any]
    """What came of the questions: cached, asked, failed by reason and what each `said` first, over_budget, tokens of
    this run."""
    tasks: dict[TaskId, TaskReport]
    macro: dict[str, Interval]
    """Means of the greedy accuracy over tasks, each counting alike; over those of `assemble.MACRO` that were asked."""


class PolicyComparison(Record):
    """Two policies on the same questions, by one method: right answers, and scores of open tasks."""

    before: str
    after: str
    method: Method
    tasks: dict[TaskId, PairedComparison]
    scores: dict[TaskId, PairedComparison] = Field(default={})
    """Of open tasks, from 0 to 100, on the items that both have a score of."""


class BenchReport(Record):
    """What `bench.json` holds."""

    dermo_ray: str
    date: str
    source: Literal["release", "prepared"]
    settings: dict[str, Any]
    versions: dict[str, str]
    items: dict[TaskId, int]
    left_out: dict[TaskId, dict[str, int]]
    """Rows that gave no item, by reason."""
    missing: dict[str, str]
    """Tasks, and files of a task's data sets, that were asked for and gave no item, with the reason."""
    policies: list[PolicyReport]
    comparisons: list[PolicyComparison]
    published: PublishedTable
    comparability: str
    judge: dict[str, Any] | None
    """Who judged open tasks, and what came of its questions; None where they were compared offline."""


def task_report(
    items: Sequence[BenchItem],
    responses: Sequence[Response],
    judgements: Judgements,
    taxonomy: Taxonomy,
    settings: BenchSettings,
    *,
    compat: bool = False,
    temperature: float | None = None,
    left_out: int = 0,
) -> tuple[TaskReport, dict[Method, Columns]]:
    """Measure the responses to items of one task; also gives each method's columns, to compare policies by.

    `temperature` is that which was fitted for CCT's adaptation; `left_out` are rows that gave no item, which `compat`
    counts as walks.
    """
    bootstrap = Bootstrap(settings.resamples, settings.items.seed)
    task = TASKS[items[0].task]
    # a method that nothing was answered by is wrong everywhere, not absent
    by_method: dict[Method, list[Response]] = {method: [] for method in methods_of(task.id, settings)}
    for response in responses:
        by_method[response.method].append(response)
    found = {method: columns(items, given, taxonomy) for method, given in by_method.items()}
    answers = {method: column for method, column in found.items() if column is not None}
    measures = {
        method: method_measures(method, given, answers.get(method), bootstrap) for method, given in by_method.items()
    }
    report: dict[str, Any] = {
        "task": task.id,
        "title": task.title,
        "axis": task.axis,
        "items": len(items),
        "methods": measures,
        "differences": differences(answers, measures, bootstrap),
        "adapted": adapted(by_method["cct"], answers["cct"], settings.cct, bootstrap, temperature)
        if "cct" in answers
        else None,
    }
    if task.scoring == "judge":
        report["scores"] = {
            method: open_score(items, given, judgements, bootstrap) for method, given in by_method.items()
        }
    greedy = answers.get("greedy")
    if greedy is None:
        return TaskReport(**report), answers
    if task.scoring != "judge":
        texts = [response.scored_answer for response in by_method["greedy"]]
        report["greedy"] = aggregate(items, greedy.verdicts)
        report["intervals"] = intervals(report["greedy"], greedy, bootstrap)
        if compat:
            verdicts = score_all(items, texts, compat=True)
            report["compat"] = aggregate(items, verdicts, compat=True, left_out=left_out)
            report["compat_intervals"] = compat_intervals(report["compat"], items, verdicts, bootstrap, left_out)
    report["by"] = {method: tables(column, bootstrap) for method, column in answers.items()}
    if any(item.facts.skin_tone for item in items):
        report["fairness"] = {method: fairness_of(column, bootstrap) for method, column in answers.items()}
    if task.axis in ("diagnosis", "reasoning", "fairness") and task.scoring != "walk":
        report["confusion"] = confusion(greedy.truth, greedy.answers, taxonomy)
        report["classes"] = by_class(greedy.truth, greedy.answers, groups=greedy.groups, **bootstrap._asdict())
    return TaskReport(**report), answers
