"""The report of a benchmark as one HTML file, and a fragment for a model card.

Invariants: what a policy wrote is shown as text; every figure of ours stands beside its interval, and every figure of
the paper's under a note on what compares.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dermo_ray.bench.judges import NOTE
from dermo_ray.bench.measures import COVERAGE
from dermo_ray.bench.results import BenchReport, PolicyReport
from dermo_ray.bench.tasks import TASKS
from dermo_ray.config.bench import Method
from dermo_ray.report.card import model_card
from dermo_ray.report.cases import Case
from dermo_ray.report.figures import compat_headline, headline, ours_beside
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
        compat={
            policy.name: {name: compat_headline(task) for name, task in policy.tasks.items()}
            for policy in report.policies
        },
        ours=ours_beside(report),
        tasks=TASKS,
        method_names=METHOD_NAMES,
        offline_note=NOTE,
        coverage=COVERAGE,
        verdict=verdict,
        series=range(1, SERIES_COLOURS + 1),
    )


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
