"""The report of a benchmark as one HTML file, and a fragment for a model card.

Invariants: what a policy wrote is shown as text; every figure of ours stands beside its interval, and every figure of
the paper's under a note on what compares.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dermo_ray.bench.judges import NOTE
from dermo_ray.bench.measures import COVERAGE
from dermo_ray.bench.results import BenchReport, PolicyReport, TaskReport
from dermo_ray.bench.statistics import Interval
from dermo_ray.bench.tasks import TASKS
from dermo_ray.config.bench import Method
from dermo_ray.report.card import model_card
from dermo_ray.report.cases import Case
from dermo_ray.report.pages import interval, render
from dermo_ray.report.plots import SERIES_COLOURS, Chart, Points, line_chart
from dermo_ray.report.tables import verdict
from dermo_ray.staging import staged_file

PAGE = "bench.html"
CARD = "model_card.md"

METHOD_NAMES: Mapping[Method, str] = {
    "greedy": "greedy",
    "majority": "majority vote",
    "cct": "CCT",
    "cct_early": "CCT, stopping early",
}


def write_bench_report(out: Path, report: BenchReport, cases: Mapping[str, Sequence[Case]]) -> Path:
    """Write `bench.html` and `model_card.md` into the folder `out`; returns the path of the first.

    `cases` are the example cases of each policy, by its name.
    """
    for name, text in ((CARD, model_card(report)), (PAGE, bench_page(report, cases))):
        with staged_file(out / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return out / PAGE


def bench_page(report: BenchReport, cases: Mapping[str, Sequence[Case]]) -> str:
    """The page as text."""
    return render(
        "bench.html",
        {"percent": "{:.1f}".format, "count": "{:,.0f}".format, "interval": interval},
        report=report,
        cases=cases,
        charts={policy.name: _charts(policy) for policy in report.policies},
        headlines={
            policy.name: {name: headline(task) for name, task in policy.tasks.items()} for policy in report.policies
        },
        ours=ours_beside(report),
        tasks=TASKS,
        method_names=METHOD_NAMES,
        offline_note=NOTE,
        coverage=COVERAGE,
        verdict=verdict,
        series=range(1, SERIES_COLOURS + 1),
    )


def headline(task: TaskReport) -> tuple[str, Interval | None, float | None]:
    """The measure that the paper reports: its name, its interval, or its value where it has no interval."""
    if task.greedy is not None:
        name = task.greedy.metric
        return name, task.intervals.get(name), task.greedy.value
    score = task.scores.get("greedy")
    if score is None:
        return "judge", None, None
    return ("judge" if score.judged_by == "judge" else "offline, not the paper's"), score.score, None


def ours_beside(report: BenchReport) -> dict[str, list[float | None]]:
    """Our accuracies in percent in the columns of the paper's table: each policy greedily, by CCT, and as compat."""
    rows: dict[str, list[float | None]] = {}
    for policy in report.policies:
        columns = report.published.columns
        rows[policy.name] = [_cell(policy, column, "greedy") for column in columns]
        rows[f"{policy.name} + CCT"] = [_cell(policy, column, "cct") for column in columns]
        if any(task.compat for task in policy.tasks.values()):
            rows[f"{policy.name}, compat"] = [_compat_cell(policy, column) for column in columns]
    return {name: cells for name, cells in rows.items() if any(cell is not None for cell in cells)}


def _task(policy: PolicyReport, column: str) -> tuple[TaskReport | None, str]:
    """The task that a column of the paper's table is about, and its data set, empty where the task has one alone."""
    name, _, subset = column.partition("/")
    return next((task for task in policy.tasks.values() if task.task == name), None), subset


def _cell(policy: PolicyReport, column: str, method: Method) -> float | None:
    task, subset = _task(policy, column)
    if task is None:
        return None
    if subset:
        score = task.by.get(method, {}).get("subset", {}).get(subset)
        return None if score is None else 100 * score.mean.mean
    measured = task.methods.get(method)
    return None if measured is None or measured.accuracy is None else 100 * measured.accuracy.mean


def _compat_cell(policy: PolicyReport, column: str) -> float | None:
    task, subset = _task(policy, column)
    if task is None or task.compat is None:
        return None
    if subset:
        tally = task.compat.by.get("subset", {}).get(subset)
        return None if tally is None else 100 * tally.accuracy
    accuracy = task.compat.measures.get("accuracy")
    return None if accuracy is None else 100 * accuracy


def _charts(policy: PolicyReport) -> dict[str, list[Chart]]:
    """For each task with right answers: how well confidences are calibrated, and risk over coverage."""
    made: dict[str, list[Chart]] = {}
    for name, task in policy.tasks.items():
        measured = {METHOD_NAMES[method]: m for method, m in task.methods.items() if m.questions}
        if not measured:
            continue
        bins: dict[str, Points] = {
            method: ([b.confidence for b in m.reliability], [b.accuracy for b in m.reliability])
            for method, m in measured.items()
        }
        curves: dict[str, Points] = {
            method: ([c for c, _ in m.risk_coverage], [r for _, r in m.risk_coverage]) for method, m in measured.items()
        }
        made[name] = [
            line_chart(f"{policy.name}, {name}: calibration", bins, "confidence", "accuracy", diagonal=True),
            line_chart(f"{policy.name}, {name}: selective answers", curves, "share answered", "share wrong"),
        ]
    return made
