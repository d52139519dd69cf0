"""DermoBench as a part of `jobs.evaluate`: load the items, ask every policy, judge, measure, report."""

import asyncio
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import rich
import rich.table

from actors.adapters import Adapter
from actors.examiner import pool_policy
from dermo_ray.asking.cache import opened
from dermo_ray.bench.answering import Respond
from dermo_ray.bench.assemble import Answered, bench_report, counts
from dermo_ray.bench.collect import Collected, collect, questions
from dermo_ray.bench.endpoint import endpoint_policy
from dermo_ray.bench.judges import JudgeReport, estimate
from dermo_ray.bench.judging import Judgements, OpenPair, for_judge, judge_all, judge_offline, open_answers
from dermo_ray.bench.load import load_items
from dermo_ray.bench.responses import Response
from dermo_ray.bench.results import BenchReport, TaskReport
from dermo_ray.bench.stream import STREAMED, training_counts
from dermo_ray.bench.tasks import BenchItem, Items, TaskId
from dermo_ray.config.bench import BenchSettings, Method, PolicySettings
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.progress import progress_bar
from dermo_ray.report.bench import write_bench_report
from dermo_ray.report.cases import cases
from dermo_ray.report.figures import Figure, figures_of
from dermo_ray.staging import staged_file
from dermo_ray.taxonomy import Taxonomy
from jobs import preflight
from jobs.cluster import ray_session
from jobs.policies import checkpoint_of, fingerprint, where
from serve.checkpoints import Checkpoint

RESULT = "bench.json"


@dataclass(frozen=True)
class Asked:
    """The items, and what every policy answered."""

    items: dict[TaskId, Items]
    answered: list[Answered]
    validation: dict[TaskId, Items]
    """What CCT's temperature is fitted on; empty where none is."""
    missing: dict[str, str]
    """Tasks and files of data sets that there is no item of, with the reason."""


def run(settings: BenchSettings, *, compat: bool = False) -> BenchReport:
    """Ask every policy what the cache lacks, judge, and write `bench.json`, `bench.html` and `model_card.md`.

    Raises `UserError` for items, policies or a judge that can't be used, before anything slow starts where that can be
    known.
    """
    taxonomy = Taxonomy.load(settings.items.taxonomy)
    asked = ask(settings, taxonomy)
    items = [item for found in asked.items.values() for item in found.items]
    judgements, judging = _judge(items, asked.answered, settings, taxonomy)
    settings.out.mkdir(parents=True, exist_ok=True)
    report, answers = bench_report(
        asked.items,
        asked.answered,
        judgements,
        judging,
        settings,
        taxonomy,
        compat=compat,
        validation=asked.validation,
        missing=asked.missing,
    )
    with staged_file(settings.out / RESULT) as aside:
        aside.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    examples = {
        policy.name: cases(answers[policy.name], policy.responses, settings.examples) for policy in asked.answered
    }
    page = write_bench_report(settings.out, report, examples)
    _print(report)
    print(f"{settings.out / RESULT}\n{page}")
    return report


def ask(settings: BenchSettings, taxonomy: Taxonomy) -> Asked:
    """Load the items and ask every policy what the cache lacks. Raises `UserError` as `run` does."""
    checkpoints = [checkpoint_of(policy) for policy in settings.policies]
    training_counts(settings.cct.adaptation)  # said now what would be found out after the last answer
    found, missing = load_items(settings.items, settings.tasks, taxonomy)
    for name, reason in missing.items():
        print(f"not asked: {name}: {reason}", flush=True)
    items = [item for task in found.values() for item in task.items]
    validation = _validation(settings, {item.id for item in items}, taxonomy)
    local = any(checkpoint is not None for checkpoint in checkpoints)
    answered = []
    with ray_session() if local else nullcontext():
        if local:
            preflight.ensure("evaluate", EvaluateConfig(bench=settings))
        for policy, checkpoint in zip(settings.policies, checkpoints, strict=True):
            key_of_weights = fingerprint(policy, checkpoint)
            collected = _ask(policy, checkpoint, key_of_weights, items, settings, taxonomy)
            fitted: list[Response] = []
            if held_back := [item for task in validation.values() for item in task.items]:
                by_cct = settings.model_copy(update={"methods": ("cct",)})
                fitted = _ask(policy, checkpoint, key_of_weights, held_back, by_cct, taxonomy).responses
            place = where(policy, checkpoint)
            answered.append(Answered(policy.name, place, key_of_weights, collected.responses, collected, fitted))
    return Asked(found, answered, validation, missing)


def _validation(settings: BenchSettings, asked: Container[str], taxonomy: Taxonomy) -> dict[TaskId, Items]:
    """What CCT's temperature is fitted on: items of the settings' other split, without any that is `asked` about."""
    split, tasks = settings.cct.adaptation.fit, [task for task in settings.tasks if task in STREAMED]
    if split is None or "cct" not in settings.methods or not tasks:
        return {}
    found = load_items(settings.items.model_copy(update={"split": split}), tasks, taxonomy).items
    return {
        task: Items([item for item in items.items if item.id not in asked], items.left_out)
        for task, items in found.items()
    }


def _ask(
    policy: PolicySettings,
    checkpoint: Checkpoint | None,
    key_of_weights: str,
    items: Sequence[BenchItem],
    settings: BenchSettings,
    taxonomy: Taxonomy,
) -> Collected:
    """What one policy answers."""
    answering: Callable[[], AbstractAsyncContextManager[Respond]]
    if checkpoint is None:
        answering = partial(endpoint_policy, policy, settings, taxonomy)
    else:
        adapter = None if checkpoint.adapter is None else Adapter.at(checkpoint.adapter, checkpoint.version)
        answering = partial(pool_policy, checkpoint.model, adapter, checkpoint.lora_rank, settings)
    total = len(questions(items, settings))
    with (
        progress_bar(total, policy.name, " answers") as bar,
        opened(settings.cache) as cache,
    ):

        def progress(done: Collected) -> None:
            counted = done.cached + done.asked + done.failed.total() + done.over_budget
            bar.set_postfix_str(f"{done.cached} kept, {done.failed.total()} failed", refresh=False)
            bar.update(counted - bar.n)

        return asyncio.run(collect(items, policy, key_of_weights, answering, cache, settings, progress))


def _judge(
    items: Sequence[BenchItem],
    answered: Sequence[Answered],
    settings: BenchSettings,
    taxonomy: Taxonomy,
) -> tuple[Judgements, dict[str, Any] | None]:
    """The scores of all open answers; what judging will cost is printed first."""
    given = [policy.responses for policy in answered]
    # with no responses: blank answers, which is what an item without a response counts as
    pairs = [pair for responses in (*given, []) for pair in open_answers(items, responses)]
    if settings.judge is None or not pairs:
        return judge_offline(pairs, taxonomy), None
    return _ask_judge(pairs, settings.judge)


def _ask_judge(pairs: Sequence[OpenPair], settings: JudgeSettings) -> tuple[Judgements, dict[str, Any]]:
    expected = estimate(for_judge(pairs), settings)
    price = "" if expected.cost is None else f", cost {expected.cost:,.2f} (at most {expected.highest_cost:,.2f})"
    print(
        f"judge {settings.endpoint.model}: {expected.requests:,} questions to ask, {expected.cached:,} kept; about "
        f"{expected.input_tokens:,} tokens to read and {expected.output_tokens:,} to write{price}",
        flush=True,
    )
    with progress_bar(expected.requests + expected.cached, "judge", " verdicts") as bar:

        def progress(report: JudgeReport) -> None:
            bar.update(report.cached + report.asked + report.failed.total() + report.over_budget - bar.n)

        judgements, report = asyncio.run(judge_all(pairs, settings, progress))
    return judgements, {"model": settings.endpoint.model, "estimate": expected.model_dump(), **counts(report)}


def _print(report: BenchReport) -> None:
    """Print every task and method."""
    for policy in report.policies:
        shown = rich.table.Table(
            "task", "method", "measure", "value", "95 % interval", "ECE", "tokens", "seconds", title=policy.name
        )
        for name, task in policy.tasks.items():
            shown.add_section()
            for method in task.methods:
                for row in table_rows(task, method):
                    shown.add_row(f"{name} {task.title}", method, *row)
        rich.print(shown)
        for reason, count in policy.counts["failed"].items():
            words = policy.counts["said"][reason]
            print(f"{policy.name}: {count:,} without an answer, counted as wrong ({reason}: {words})")


def table_rows(task: TaskReport, method: Method) -> list[tuple[str, ...]]:
    """What is printed of a method: one row a figure, the first with calibration error, tokens and median seconds."""
    measured = task.methods[method]
    error = "" if measured.calibration is None else f"{measured.calibration.ece['equal_width'].mean:.3f}"
    cost = measured.cost
    costs = ("", "") if cost is None else (f"{cost.completion_tokens:,.0f}", f"{cost.seconds_median:.2f}")
    figures = figures_of(task, method) or [Figure("-", None, None)]
    return [
        (
            figure.name.replace("_", " "),
            "-" if figure.value is None else f"{figure.value:.3f}",
            "" if figure.interval is None else f"{figure.interval.low:.3f} to {figure.interval.high:.3f}",
            *((error, *costs) if place == 0 else ("", "", "")),
        )
        for place, figure in enumerate(figures)
    ]
