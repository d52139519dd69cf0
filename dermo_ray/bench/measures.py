"""What a way of answering is worth and costs, and how two ways compare on the same questions.

Invariant: every share stands beside a bootstrap interval in which items of one patient, lesion or image are drawn
together.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from dermo_ray.bench import paired
from dermo_ray.bench.breakdown import GroupScore, by_group, macro_average
from dermo_ray.bench.calibration import Calibration, ReliabilityBin, calibration, reliability
from dermo_ray.bench.columns import Columns, compat_columns
from dermo_ray.bench.fairness import Fairness, fairness
from dermo_ray.bench.paired import PairedComparison
from dermo_ray.bench.responses import Response
from dermo_ray.bench.selective import Selective, risk_coverage, selective
from dermo_ray.bench.statistics import FloatArray, Interval, bootstrap_mean, bootstrap_statistic
from dermo_ray.bench.tasks import BenchItem, Scored, TaskResult
from dermo_ray.bench.tasks.scoring import counted_by_the_authors
from dermo_ray.config.bench import Method
from dermo_ray.records import Record

COVERAGE = 0.8
"""The share of answers that selective accuracy keeps."""
_CURVE_POINTS = 100

PAIRS: tuple[tuple[Method, Method], ...] = (
    ("greedy", "cct"),
    ("majority", "cct"),
    ("greedy", "majority"),
    ("greedy", "cct_early"),
    ("majority", "cct_early"),
    ("cct", "cct_early"),
)
"""Which methods are set side by side: before, after."""


class Bootstrap(NamedTuple):
    """How intervals are found."""

    resamples: int = 2000
    seed: int = 0


class Cost(Record):
    """What an item costs on average, and how long it took."""

    prompt_tokens: float
    completion_tokens: float
    rollouts: float
    seconds_median: float
    """From asking to answer, among all that was asked at once."""
    seconds_p95: float


class MethodMeasures(Record):
    """One method on one task."""

    method: Method
    items: int
    """Items that were answered."""
    cost: Cost | None
    """None where nothing was answered."""
    questions: int
    """Questions with a right answer: items, of a walk steps, of reasoning those with a label; 0 where there is none."""
    accuracy: Interval | None = None
    abstained: float | None = None
    """Share of the questions on which the method would rather not answer."""
    calibration: Calibration | None = None
    reliability: list[ReliabilityBin] = Field(default=[])
    selective: Selective | None = None
    risk_coverage: list[tuple[float, float]] = Field(default=[])
    """Coverage and risk, at most 100 points of the curve."""


class MethodDifference(Record):
    """Two methods on the same questions."""

    before: Method
    after: Method
    comparison: PairedComparison
    tokens_saved: float
    """Share of the tokens written that `after` does without; negative where it writes more."""


def method_measures(
    method: Method, responses: Sequence[Response], answers: Columns | None, bootstrap: Bootstrap
) -> MethodMeasures:
    """Measure one method from its responses and, where questions have right answers, their columns."""
    cost = _cost(responses)
    if answers is None:
        return MethodMeasures(method=method, items=len(responses), cost=cost, questions=0)
    shared = {"groups": answers.groups, **bootstrap._asdict()}
    curve = risk_coverage(answers.confidence, answers.right)
    points = np.unique(np.linspace(0, len(curve.coverage) - 1, _CURVE_POINTS).round().astype(int))
    return MethodMeasures(
        method=method,
        items=len(responses),
        cost=cost,
        questions=len(answers.right),
        accuracy=bootstrap_mean(answers.right, **shared),
        abstained=float(answers.abstained.mean()),
        calibration=calibration(answers.confidence, answers.right, **shared),
        reliability=reliability(answers.confidence, answers.right, bins=15),
        selective=selective(answers.confidence, answers.right, coverage=COVERAGE, **shared),
        risk_coverage=[(float(curve.coverage[p]), float(curve.risk[p])) for p in points],
    )


def differences(
    answers: Mapping[Method, Columns], measures: Mapping[Method, MethodMeasures], bootstrap: Bootstrap
) -> list[MethodDifference]:
    """The pairs of `PAIRS` of which both were measured."""
    found = []
    for before, after in PAIRS:
        if before in answers and after in answers:
            old, new = measures[before].cost, measures[after].cost
            saved = 0.0 if old is None or new is None else 1 - new.completion_tokens / max(old.completion_tokens, 1.0)
            comparison = compare(answers[before], answers[after], bootstrap)
            found.append(MethodDifference(before=before, after=after, comparison=comparison, tokens_saved=saved))
    return found


def compare(before: Columns, after: Columns, bootstrap: Bootstrap) -> PairedComparison:
    """Two columns over the same rows."""
    return paired.compare(before.right, after.right, groups=before.groups, **bootstrap._asdict())


def intervals(result: TaskResult, answers: Columns, bootstrap: Bootstrap) -> dict[str, Interval]:
    """The interval of every measure of `result` that can have one."""
    shared = {"groups": answers.groups, **bootstrap._asdict()}
    walks = _by_item(answers)
    made: dict[str, Interval] = {}
    for name in result.measures:
        if name in ("accuracy", "step_accuracy"):
            made[name] = bootstrap_mean(answers.right, **shared)
        elif name in ("macro_accuracy", "mean_subset_accuracy"):
            fact = "concept" if name == "macro_accuracy" else "subset"
            names = [getattr(item.facts, fact) for item in answers.items]
            known = np.array([value is not None for value in names])
            kept = [value for value in names if value is not None]
            made[name] = macro_average(answers.right[known], kept, groups=answers.groups[known], **bootstrap._asdict())
        elif name in ("avg_corrections", "pct_zero_correction"):
            wrong, groups = walks
            values = wrong if name == "avg_corrections" else (wrong == 0).astype(float)
            made[name] = bootstrap_mean(values, groups=groups, **bootstrap._asdict())
        elif name == "fairness" and (score := fairness_of(answers, bootstrap).score) is not None:
            made[name] = score
        elif name == "gap":
            made[name] = _gap(answers, bootstrap)
    return made


def compat_intervals(
    result: TaskResult, items: Sequence[BenchItem], scored: Sequence[Scored], bootstrap: Bootstrap, left_out: int
) -> dict[str, Interval]:
    """The intervals of the means in `result`, which is by the authors' rules, over the rows that these count."""
    kept = counted_by_the_authors(list(zip(items, scored, strict=True)))
    if not kept:
        return {}
    answers = compat_columns(kept)
    made = intervals(result, answers, bootstrap)
    if left_out:  # they are divided by rows that nothing is known of
        made = {name: value for name, value in made.items() if name not in ("avg_corrections", "pct_zero_correction")}
    if result.task == "t1.3":
        letters = [answers.truth, [answer or "" for answer in answers.answers]]
        codes = np.unique(np.array(letters), return_inverse=True)[1].reshape(2, -1)
        made["macro_f1"] = bootstrap_statistic(list(codes), _macro_f1, groups=answers.groups, **bootstrap._asdict())
    by_subset = tables(answers, bootstrap).get("subset", {}) if result.task == "t2.4" else {}
    return made | {f"accuracy, {subset}": score.mean for subset, score in by_subset.items()}


def _macro_f1(truth: FloatArray, said: FloatArray, weights: FloatArray) -> FloatArray:
    """The mean F1 over letters in each resample, over those that occur in it."""
    sums = np.zeros(len(weights))
    present = np.zeros(len(weights))
    for letter in np.unique([truth, said]):
        seen = weights @ (truth == letter) + weights @ (said == letter)
        right = weights @ ((truth == letter) & (said == letter))
        sums += np.divide(2 * right, seen, out=np.zeros_like(seen), where=seen > 0)
        present += seen > 0
    return sums / present


def fairness_of(answers: Columns, bootstrap: Bootstrap) -> Fairness:
    """Fairness over the items' skin tones."""
    tones = [item.facts.skin_tone for item in answers.items]
    return fairness(answers.right, tones, groups=answers.groups, **bootstrap._asdict())


def tables(answers: Columns, bootstrap: Bootstrap) -> dict[str, dict[str, GroupScore]]:
    """Accuracy by concept, data set, skin tone, modality and step of a walk, for the facts that tell items apart."""
    made = {}
    for fact in ("concept", "subset", "skin_tone", "modality"):
        names = [getattr(item.facts, fact) for item in answers.items]
        if len(set(names) - {None}) > 1 or (fact == "skin_tone" and any(names)):
            made[fact] = by_group(answers.right, names, groups=answers.groups, **bootstrap._asdict())
    if max(answers.places) > 0:
        steps = [f"step {place + 1:02d}" for place in answers.places]
        made["step"] = by_group(answers.right, steps, groups=answers.groups, **bootstrap._asdict())
    return made


def _cost(responses: Sequence[Response]) -> Cost | None:
    if not responses:
        return None
    seconds = [sum(step.seconds for step in response.steps) for response in responses]
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    return Cost(
        prompt_tokens=_mean(response.prompt_tokens for response in responses),
        completion_tokens=_mean(response.completion_tokens for response in responses),
        rollouts=_mean(sum(max(1, len(step.votes)) for step in response.steps) for response in responses),
        seconds_median=float(median),
        seconds_p95=float(p95),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _by_item(answers: Columns) -> tuple[FloatArray, list[str]]:
    """Wrong steps of each walk, and its group."""
    wrong: dict[str, float] = {}
    groups: dict[str, str] = {}
    for item, right, group in zip(answers.items, answers.right, answers.groups, strict=True):
        wrong[item.id] = wrong.get(item.id, 0.0) + (not right)
        groups[item.id] = str(group)
    return np.array(list(wrong.values())), list(groups.values())


def _gap(answers: Columns, bootstrap: Bootstrap) -> Interval:
    """Highest minus lowest accuracy over the skin tones."""
    tones = np.array([item.facts.skin_tone or "" for item in answers.items])
    known = tones != ""
    names, codes = np.unique(tones[known], return_inverse=True)

    def statistic(right: FloatArray, code: FloatArray, weights: FloatArray) -> FloatArray:
        means = np.stack([_weighted(right, weights * (code == place)) for place in range(len(names))], axis=1)
        return np.asarray(means.max(axis=1) - means.min(axis=1))

    columns = [answers.right[known].astype(float), codes]
    return bootstrap_statistic(columns, statistic, groups=answers.groups[known], **bootstrap._asdict())


def _weighted(values: FloatArray, weights: FloatArray) -> FloatArray:
    totals = weights.sum(axis=1)
    return np.divide(weights @ values, totals, out=np.zeros_like(totals), where=totals > 0)
