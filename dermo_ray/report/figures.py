"""The figures of a benchmark that its page, the model card and the printed table show, picked out of the report.

Invariant: a figure stands beside its interval wherever there is one, and under the name of what it measures.
"""

from typing import NamedTuple

from dermo_ray.bench.judging import OpenScore
from dermo_ray.bench.results import BenchReport, PolicyReport, TaskReport
from dermo_ray.bench.statistics import Interval
from dermo_ray.bench.tasks import TASKS, TaskResult
from dermo_ray.config.bench import Method

JUDGED, OFFLINE = "judge", "offline, not the paper's"


class Figure(NamedTuple):
    """One figure of a task."""

    name: str
    value: float | None
    interval: Interval | None


def headline(task: TaskReport) -> Figure:
    """The measure that the paper reports, of greedy answers."""
    if task.greedy is not None:
        return _own(task.greedy, task.intervals)
    score = task.scores.get("greedy")
    return Figure(JUDGED, None, None) if score is None else _of_score(score)


def compat_headline(task: TaskReport) -> Figure | None:
    """The same by the rules of the authors' scripts; None where these were not asked for."""
    return None if task.compat is None else _own(task.compat, task.compat_intervals)


def figures_of(task: TaskReport, method: Method) -> list[Figure]:
    """All that says how good a method's answers are: greedily the headline first, then scores and accuracy."""
    found = [headline(task)] if method == "greedy" else []
    if method in task.scores and method != "greedy":
        found.append(_of_score(task.scores[method]))
    accuracy = task.methods[method].accuracy if method in task.methods else None
    name = {"judge": "diagnosis accuracy", "walk": "step_accuracy"}.get(TASKS[task.task].scoring, "accuracy")
    if accuracy is not None and name not in [figure.name for figure in found]:
        found.append(_figure(name, accuracy))
    if method == "greedy" and (compat := compat_headline(task)) is not None:
        found.append(compat._replace(name=f"{compat.name}, compat"))
    return [figure for figure in found if figure.value is not None]


def ours_beside(report: BenchReport) -> dict[str, list[Interval | None]]:
    """Our accuracies in percent in the columns of the paper's table: each policy greedily, by CCT, and as compat."""
    rows: dict[str, list[Interval | None]] = {}
    for policy in report.policies:
        columns = report.published.columns
        rows[policy.name] = [_cell(policy, column, "greedy") for column in columns]
        rows[f"{policy.name} + CCT"] = [_cell(policy, column, "cct") for column in columns]
        rows[f"{policy.name}, compat"] = [_compat_cell(policy, column) for column in columns]
    return {name: cells for name, cells in rows.items() if any(cell is not None for cell in cells)}


def _own(result: TaskResult, intervals: dict[str, Interval]) -> Figure:
    return Figure(result.metric, result.value, intervals.get(result.metric))


def _of_score(score: OpenScore) -> Figure:
    return _figure(JUDGED if score.judged_by == "judge" else OFFLINE, score.score)


def _figure(name: str, interval: Interval | None) -> Figure:
    return Figure(name, None if interval is None else interval.mean, interval)


def _task(policy: PolicyReport, column: str) -> tuple[TaskReport | None, str]:
    """The task that a column of the paper's table is about, and its data set, empty where the task has one alone."""
    name, _, subset = column.partition("/")
    return next((task for task in policy.tasks.values() if task.task == name), None), subset


def _cell(policy: PolicyReport, column: str, method: Method) -> Interval | None:
    task, subset = _task(policy, column)
    if task is None:
        return None
    if subset:
        score = task.by.get(method, {}).get("subset", {}).get(subset)
        return None if score is None else _percent(score.mean)
    measured = task.methods.get(method)
    return None if measured is None else _percent(measured.accuracy)


def _compat_cell(policy: PolicyReport, column: str) -> Interval | None:
    task, subset = _task(policy, column)
    if task is None:
        return None
    return _percent(task.compat_intervals.get(f"accuracy, {subset}" if subset else "accuracy"))


def _percent(share: Interval | None) -> Interval | None:
    return None if share is None else Interval(100 * share.mean, 100 * share.low, 100 * share.high)
