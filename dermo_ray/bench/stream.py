"""CCT's adaptation over the streams of a task's items, beside plain CCT. Off unless `cct.adaptation` asks for it.

A stream is made of items whose answers are labels with one meaning: those of one concept (t1.3) or data set (t2.4),
else all of the task. Steps of a walk (t2.3) and choices among features (t1.4) have options of their own every time:
there is no one distribution of labels to shift, and nothing is adapted.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from dermo_ray.bench.calibration import calibration
from dermo_ray.bench.columns import Columns
from dermo_ray.bench.measures import COVERAGE, Bootstrap
from dermo_ray.bench.paired import PairedComparison
from dermo_ray.bench.paired import compare as compare_paired
from dermo_ray.bench.responses import Response, Step
from dermo_ray.bench.selective import selective
from dermo_ray.bench.statistics import Interval
from dermo_ray.bench.tasks import BenchItem, TaskId
from dermo_ray.cct import CCTResult, adapt, fit_temperature
from dermo_ray.config.cct import AdaptationSettings, CCTConfig
from dermo_ray.data.manifest import read_manifest
from dermo_ray.errors import UserError
from dermo_ray.records import Record
from dermo_ray.taxonomy import fold_label

STREAMED: tuple[TaskId, ...] = ("t1.3", "t2.1", "t2.2", "t2.4", "t3.1", "t3.2", "t4")
"""The tasks whose answers are labels with one meaning throughout a stream."""
_WHOLE = "all"


class BeforeAndAfter(Record):
    """A figure of plain CCT and of adapted CCT."""

    before: Interval
    after: Interval


class Adapted(Record):
    """Plain CCT (`before`) and adapted CCT (`after`) on the questions that some rollout answered."""

    accuracy: PairedComparison
    confidence: tuple[float, float]
    """Mean confidence before and after."""
    calibration_error: BeforeAndAfter
    """Over bins of equal width."""
    selective_accuracy: BeforeAndAfter
    """Of the surest 80 %."""
    temperature: float
    """What posteriors were tempered with: as set, or as fitted on the validation items of the task."""
    priors: dict[str, dict[str, float]]
    """How frequent each label is taken to be in each stream, by concept or data set; left off where left alone."""


def adapted(
    responses: Sequence[Response],
    answers: Columns,
    config: CCTConfig,
    bootstrap: Bootstrap,
    temperature: float | None = None,
) -> Adapted | None:
    """The adapted answers of a task; None where nothing is to be adapted.

    A `temperature` that was fitted takes the place of the settings'. Raises `UserError` as `training_counts` does.
    """
    if config.adaptation == AdaptationSettings() or answers.items[0].task not in STREAMED:
        return None
    if temperature is not None:
        adaptation = config.adaptation.model_copy(update={"temperature": temperature})
        config = config.model_copy(update={"adaptation": adaptation})
    steps: dict[str, Step] = {response.item: response.steps[0] for response in responses}
    streams: dict[str, list[int]] = {}
    for row, item in enumerate(answers.items):
        if item.id in steps and steps[item.id].answer is not None:
            streams.setdefault(_stream(item), []).append(row)
    rows = [row for stream in streams.values() for row in stream]
    if not rows:
        return None
    plain: list[CCTResult] = []
    corrected: list[CCTResult] = []
    priors: dict[str, dict[str, float]] = {}
    for name, stream in streams.items():
        results = [result_of(steps[answers.items[row].id]) for row in stream]
        found = adapt(results, config, _training_prior(answers.items[stream[0]].task, results, config.adaptation))
        plain += results
        corrected += found.results
        if found.prior is not None:
            priors[name] = found.prior
    truth = [fold_label(answers.truth[row]) for row in rows]
    right = [
        np.array([fold_label(result.answer) == label for result, label in zip(made, truth, strict=True)])
        for made in (plain, corrected)
    ]
    sure = [np.array([result.confidence for result in made]) for made in (plain, corrected)]
    shared = {"groups": answers.groups[rows], **bootstrap._asdict()}

    def error(place: int) -> Interval:
        return calibration(sure[place], right[place], **shared).ece["equal_width"]

    def surest(place: int) -> Interval:
        return selective(sure[place], right[place], coverage=COVERAGE, **shared).selective_accuracy

    return Adapted(
        accuracy=compare_paired(right[0], right[1], **shared),
        confidence=(float(sure[0].mean()), float(sure[1].mean())),
        calibration_error=BeforeAndAfter(before=error(0), after=error(1)),
        selective_accuracy=BeforeAndAfter(before=surest(0), after=surest(1)),
        temperature=config.adaptation.temperature,
        priors=priors,
    )


def fitted_temperature(responses: Sequence[Response], answers: Columns) -> float | None:
    """The temperature under which the right answers to validation items are likeliest; None without any answer."""
    steps = {response.item: response.steps[0] for response in responses}
    pairs = [
        (steps[item.id].posterior, truth)
        for item, truth in zip(answers.items, answers.truth, strict=True)
        if item.id in steps and steps[item.id].posterior
    ]
    if not pairs:
        return None
    folded = [{fold_label(label): p for label, p in posterior.items()} for posterior, _ in pairs]
    return fit_temperature(folded, [fold_label(truth) for _, truth in pairs])


def training_counts(settings: AdaptationSettings) -> Mapping[str, float] | None:
    """How frequent each label was in training, as the settings or their manifest say; None where neither does.

    Raises `UserError` where `trained_on` is no prepared folder, or none with labels.
    """
    if settings.trained_on is None:
        return settings.training_prior
    return _counted(settings.trained_on)


@lru_cache(maxsize=8)
def _counted(folder: Path) -> Mapping[str, float]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is no prepared folder: give the one that the policy was trained on as trained_on")
    counts = manifest["counts"]["trajectories"].get("label", {})
    labels = {label: float(count) for label, count in counts.items() if label != "none"}
    if not labels:
        raise UserError(f"{folder} counts no labels: give adaptation.training_prior, the share of each label")
    return labels


def _training_prior(
    task: TaskId, results: Sequence[CCTResult], settings: AdaptationSettings
) -> dict[str, float] | None:
    """Of the labels in `results`; one that was not seen in training is taken for as rare as the rarest that was."""
    counts = training_counts(settings)
    if counts is None or task == "t1.3":  # values of a field are no diagnoses
        return None
    known = {fold_label(label): count for label, count in counts.items()}
    labels = sorted({label for result in results for label in result.posterior})
    found = {label: known.get(fold_label(label), min(known.values())) for label in labels}
    total = math.fsum(found.values())
    return {label: count / total for label, count in found.items()}


def _stream(item: BenchItem) -> str:
    fact = {"t1.3": item.facts.concept, "t2.4": item.facts.subset}.get(item.task)
    return fact or _WHOLE


def result_of(step: Step) -> CCTResult:
    """What CCT made of a question that some rollout answered."""
    answer = step.answer or next(iter(step.posterior))
    return CCTResult(answer, step.confidence or 0.0, dict(step.posterior), step.abstain)
