"""The report of a run as one HTML file: no script, no outside asset, every text escaped.

Invariant: what a policy wrote is shown as text, whatever it wrote; the page's own policy forbids scripts and requests.
"""

from collections.abc import Sequence
from pathlib import Path

from dermo_ray.bench.heldout import Evaluation
from dermo_ray.report.examples import Example, choose
from dermo_ray.report.pages import render
from dermo_ray.report.plots import SERIES_COLOURS, Chart, curves
from dermo_ray.report.summary import Summary
from dermo_ray.report.tables import tables
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.staging import staged_file
from dermo_ray.taxonomy import Taxonomy

REPORT = "report.html"


def write_report(
    run: Path,
    *,
    summary: Summary,
    evaluation: Evaluation,
    before: Sequence[ScoredCompletion],
    after: Sequence[ScoredCompletion],
    prepared: Path,
    taxonomy: Taxonomy,
    sft_metrics: Path | None = None,
    mavic_metrics: Path | None = None,
) -> Path:
    """Write `report.html` into the folder `run` and return its path.

    `before` and `after` are the completions that `evaluation` was made from; their images are read from the prepared
    folder. The metrics are the `metrics.jsonl` files of the two training runs.
    """
    page = demo_report(
        summary,
        evaluation,
        choose(before, after, prepared, taxonomy),
        sft_charts=curves(sft_metrics) if sft_metrics else [],
        mavic_charts=curves(mavic_metrics) if mavic_metrics else [],
    )
    path = run / REPORT
    with staged_file(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def demo_report(
    summary: Summary,
    evaluation: Evaluation,
    examples: Sequence[Example],
    *,
    sft_charts: Sequence[Chart] = (),
    mavic_charts: Sequence[Chart] = (),
) -> str:
    """The page as text."""
    return render(
        "report.html",
        {"duration": _duration, "value": _value},
        summary=summary,
        evaluation=evaluation,
        tables=tables(evaluation),
        examples=examples,
        sft_charts=sft_charts,
        mavic_charts=mavic_charts,
        series=range(1, SERIES_COLOURS + 1),
    )


def _duration(seconds: float) -> str:
    """Such as "41 s" or "3 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def _value(number: float) -> str:
    """Three significant digits, without an exponent where a person would write none."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
