"""Scores of DermoBench's open tasks: by a judge with the paper's rubrics, or by an offline comparison that is ours."""

from dermo_ray.bench.judges.answers import Judgement, OpenAnswer
from dermo_ray.bench.judges.client import JudgeReport, judge
from dermo_ray.bench.judges.cost import Estimate, cost, estimate
from dermo_ray.bench.judges.offline import NOTE, compare_offline
from dermo_ray.bench.judges.rubrics import OpenTask

__all__ = [
    "NOTE",
    "Estimate",
    "JudgeReport",
    "Judgement",
    "OpenAnswer",
    "OpenTask",
    "compare_offline",
    "cost",
    "estimate",
    "judge",
]
