"""A fragment for a model card: what was measured, on what, and what the figures do not allow."""

from dermo_ray.bench.results import BenchReport, PolicyReport, TaskReport
from dermo_ray.bench.statistics import Interval
from dermo_ray.config.bench import Method
from dermo_ray.report.figures import figures_of

_USE = (
    "**Research only.** This model is not a medical device. Its answers are no diagnosis and no advice about anybody's "
    "skin, and the figures below do not show that it is safe or useful in care."
)


def model_card(report: BenchReport) -> str:
    """The fragment in Markdown, one section a policy."""
    source = "files of DermoBench" if report.source == "release" else "held-out images of a prepared folder"
    lines = ["## Evaluation", "", _USE, ""]
    lines += [f"Measured with DermoRay {report.dermo_ray} on {source}, {report.date[:10]}. {report.comparability}", ""]
    for policy in report.policies:
        lines += [f"### {policy.name}", "", *_table(policy), "", *_fairness(policy)]
    if report.judge is not None:
        lines += [f"Open tasks were judged by {report.judge['model']}.", ""]
    elif any(task.scores for policy in report.policies for task in policy.tasks.values()):
        lines += ["Open tasks were compared offline, by words and vocabularies: not the paper's measure.", ""]
    lines += [
        "Intervals are 95 % bootstrap intervals over patients, lesions or images. Greedy is one completion at "
        "temperature 0; CCT aggregates several rollouts and costs their tokens.",
        "",
    ]
    return "\n".join(lines)


def _table(policy: PolicyReport) -> list[str]:
    rows = ["| task | items | greedy | CCT |", "| --- | ---: | --- | --- |"]
    for name, task in policy.tasks.items():
        cells = [_value(task, "greedy"), _value(task, "cct")]
        rows.append(f"| {name} {task.title} | {task.items:,} | {cells[0]} | {cells[1]} |")
    return rows


def _value(task: TaskReport, method: Method) -> str:
    shown = [
        f"{figure.name.replace('_', ' ')} {figure.value:.3f}"
        if figure.interval is None
        else f"{figure.name.replace('_', ' ')} {_shown(figure.interval)}"
        for figure in figures_of(task, method)
    ]
    return "; ".join(shown) or "-"


def _shown(value: Interval) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def _fairness(policy: PolicyReport) -> list[str]:
    lines = []
    for name, task in policy.tasks.items():
        fair = task.fairness.get("greedy")
        if fair is None or fair.score is None:
            continue
        groups = ", ".join(f"{tone}: {group.mean.mean:.3f} of {group.items}" for tone, group in fair.groups.items())
        lines += [f"Skin tones, {name}: worst over best {_shown(fair.score)}; accuracy {groups}.", ""]
    return lines
