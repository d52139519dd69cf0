"""The eleven tasks of DermoBench (arXiv 2601.01868): what they are called and how they are scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dermo_ray.bench.tasks.items import TaskId

Axis = Literal["morphology", "diagnosis", "reasoning", "fairness"]
Scoring = Literal["choice", "walk", "judge"]
"""By the option that is named; by the steps of a walk; by a judge, elsewhere."""


@dataclass(frozen=True)
class Task:
    """One task."""

    id: TaskId
    title: str
    axis: Axis
    scoring: Scoring
    metric: str
    """The measure that the paper reports; "judge" where that is a judge's score."""
    items: int
    """Items in the release."""


_TABLE: tuple[Task, ...] = (
    Task("t1.1", "open description", "morphology", "judge", "judge", 900),
    Task("t1.2", "morphology-grounded description", "morphology", "judge", "judge", 900),
    Task("t1.3", "Derm7pt attribute choice", "morphology", "choice", "accuracy", 5_530),
    Task("t1.4", "SkinCon concept choice", "morphology", "choice", "accuracy", 11_682),
    Task("t2.1", "4-way diagnosis", "diagnosis", "choice", "accuracy", 2_000),
    Task("t2.2", "25-way diagnosis", "diagnosis", "choice", "accuracy", 2_000),
    Task("t2.3", "hierarchical diagnosis", "diagnosis", "walk", "step_accuracy", 2_000),
    Task("t2.4", "out-of-distribution diagnosis", "diagnosis", "choice", "mean_subset_accuracy", 6_533),
    Task("t3.1", "reasoning to a diagnosis", "reasoning", "judge", "judge", 900),
    Task("t3.2", "morphology-grounded reasoning", "reasoning", "judge", "judge", 900),
    Task("t4", "fairness over skin tones", "fairness", "choice", "fairness", 654),
)

TASKS: Mapping[TaskId, Task] = MappingProxyType({task.id: task for task in _TABLE})
"""Every task by its id, in the paper's order."""
