"""From what every policy answered to the whole of `bench.json`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dermo_ray import __version__
from dermo_ray.asking.answering import Tally
from dermo_ray.bench import paired
from dermo_ray.bench.breakdown import macro_average
from dermo_ray.bench.columns import Columns, group_of
from dermo_ray.bench.columns import columns as columns_of
from dermo_ray.bench.judging import Judgements
from dermo_ray.bench.measures import Bootstrap, compare
from dermo_ray.bench.paired import PairedComparison
from dermo_ray.bench.published import comparability, published
from dermo_ray.bench.responses import Response
from dermo_ray.bench.results import BenchReport, PolicyComparison, PolicyReport, TaskReport, task_report
from dermo_ray.bench.statistics import Interval
from dermo_ray.bench.stream import fitted_temperature
from dermo_ray.bench.tasks import TASKS, Items, TaskId
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.taxonomy import Taxonomy
from dermo_ray.versions import installed_versions

MACRO: Mapping[str, tuple[TaskId, ...]] = {
    "morphology choices (t1.3, t1.4)": ("t1.3", "t1.4"),
    "in-distribution diagnosis (t2.1 to t2.3)": ("t2.1", "t2.2", "t2.3"),
    "all tasks with options": ("t1.3", "t1.4", "t2.1", "t2.2", "t2.3", "t2.4", "t4"),
}
"""Averages over tasks that count alike."""

_Answers = Mapping[TaskId, Mapping[Method, Columns]]


@dataclass(frozen=True)
class Answered:
    """A policy and what it answered."""

    name: str
    where: str
    """The checkpoint, model or server behind the name."""
    fingerprint: str
    responses: Sequence[Response]
    tally: Tally
    """What came of the questions."""
    validation: Sequence[Response] = ()
    """By CCT, to the items that its temperature is fitted on."""


class Measured(NamedTuple):
    """A report, and what it was made of."""

    report: BenchReport
    answers: dict[str, _Answers]
    """Of each policy, by task and method."""


def bench_report(
    found: Mapping[TaskId, Items],
    answered: Sequence[Answered],
    judgements: Judgements,
    judge: dict[str, Any] | None,
    settings: BenchSettings,
    taxonomy: Taxonomy,
    *,
    compat: bool = False,
    validation: Mapping[TaskId, Items] = MappingProxyType({}),
    missing: Mapping[str, str] = MappingProxyType({}),
) -> Measured:
    """Measure every policy on every task, and compare each further policy with the first.

    On the items of `validation`, which must not be among those of `found`, CCT's temperature is fitted. `missing` says
    why tasks and data sets that were asked for have no item.
    """
    policies: list[PolicyReport] = []
    answers: list[_Answers] = []
    for policy in answered:
        by_item: defaultdict[str, list[Response]] = defaultdict(list)
        for response in policy.responses:
            by_item[response.item].append(response)
        measured = {
            task: task_report(
                items.items,
                [response for item in items.items for response in by_item[item.id]],
                judgements,
                taxonomy,
                settings,
                compat=compat,
                # of a sample it isn't known which rows of it were left out
                left_out=sum(items.left_out.values()) if settings.items.limit is None else 0,
                temperature=_temperature(validation.get(task), policy.validation, taxonomy),
            )
            for task, items in found.items()
        }
        columns = {task: column for task, (_, column) in measured.items()}
        answers.append(columns)
        policies.append(
            PolicyReport(
                name=policy.name,
                where=policy.where,
                fingerprint=policy.fingerprint,
                counts=counts(policy.tally),
                tasks={task: report for task, (report, _) in measured.items()},
                macro=macro_averages(columns, settings),
            )
        )
    released = settings.items.release is not None
    report = BenchReport(
        dermo_ray=__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        source="release" if released else "prepared",
        settings=settings.model_dump(mode="json"),
        versions=installed_versions(),
        items={task: len(items.items) for task, items in found.items()},
        left_out={task: items.left_out for task, items in found.items() if items.left_out},
        policies=policies,
        comparisons=comparisons(answers, policies, found, settings),
        published=published(),
        missing=dict(missing),
        comparability=comparability(
            released=released, limited=settings.items.limit is not None, compat=compat, missing=tuple(missing)
        ),
        judge=judge,
    )
    return Measured(report, {policy.name: columns for policy, columns in zip(answered, answers, strict=True)})


def _temperature(found: Items | None, responses: Sequence[Response], taxonomy: Taxonomy) -> float | None:
    """The temperature that fits the responses to validation items of a task; None where there are none."""
    if found is None or not found.items or not responses:
        return None
    names = {item.id for item in found.items}
    own = [response for response in responses if response.item in names]
    answers = columns_of(found.items, own, taxonomy)
    return None if answers is None else fitted_temperature(own, answers)


def counts(tally: Tally) -> dict[str, Any]:
    """What came of the questions, as JSON."""
    names = ("cached", "asked", "requests", "input_tokens", "output_tokens", "over_budget")
    return {name: getattr(tally, name) for name in names} | {
        "failed": dict(tally.failed),
        "said": tally.said,
    }


def macro_averages(answers: _Answers, settings: BenchSettings) -> dict[str, Interval]:
    """The averages of `MACRO` of greedy accuracies, over at least two tasks.

    Tasks ask about the same images, so what is drawn together is drawn together in all of them.
    """
    greedy = {
        task: column["greedy"]
        for task, column in answers.items()
        if TASKS[task].scoring != "judge" and "greedy" in column
    }
    made = {}
    for name, members in MACRO.items():
        asked = [task for task in members if task in greedy]
        if len(asked) < 2:
            continue
        made[name] = macro_average(
            np.concatenate([greedy[task].right for task in asked]),
            [task for task in asked for _ in greedy[task].right],
            groups=np.concatenate([greedy[task].groups for task in asked]),
            resamples=settings.resamples,
            seed=settings.items.seed,
        )
    return made


def comparisons(
    answers: Sequence[_Answers],
    policies: Sequence[PolicyReport],
    found: Mapping[TaskId, Items],
    settings: BenchSettings,
) -> list[PolicyComparison]:
    """Every further policy against the first, by each method that both answered by."""
    bootstrap = Bootstrap(settings.resamples, settings.items.seed)
    made = []
    for new, policy in zip(answers[1:], policies[1:], strict=True):
        for method in settings.methods:
            tasks = {
                task: compare(column[method], new[task][method], bootstrap)
                for task, column in answers[0].items()
                if method in column and method in new.get(task, {})
            }
            scores = {
                task: compared
                for task, items in found.items()
                if (compared := _scores(policies[0].tasks[task], policy.tasks[task], method, items, bootstrap))
            }
            if tasks or scores:
                names = {"before": policies[0].name, "after": policy.name, "method": method}
                made.append(PolicyComparison.model_validate(names | {"tasks": tasks, "scores": scores}))
    return made


def _scores(
    before: TaskReport, after: TaskReport, method: Method, items: Items, bootstrap: Bootstrap
) -> PairedComparison | None:
    """The scores of an open task that both have; None where there are none, or of two kinds."""
    old, new = before.scores.get(method), after.scores.get(method)
    if old is None or new is None or old.judged_by != new.judged_by:
        return None
    both = [item for item in items.items if item.id in old.of_items and item.id in new.of_items]
    if not both:
        return None
    pairs = [[score.of_items[item.id] for item in both] for score in (old, new)]
    return paired.compare(pairs[0], pairs[1], groups=[group_of(item) for item in both], **bootstrap._asdict())
