"""Measures of a policy on held-out prompts, and of the difference between two policies on the same prompts.

A prompt counts once, however many completions it has: every measure is a mean over prompts of the mean over that
prompt's completions (balanced accuracy and F1: the same with those weights). Completions drawn at temperature 1 and
greedy ones are measured apart. Intervals are 95 % bootstrap intervals over prompts; differences are paired by prompt.

Invariants: what can't be read counts as wrong, never as missing, so that silence can't raise a measure; whether a
measure applies depends on the references alone, so that two policies are measured on the same completions.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dermo_ray.bench.statistics import Interval, balanced_accuracy, bootstrap_mean, bootstrap_statistic
from dermo_ray.completion import parse
from dermo_ray.morphology import DERM7PT_FIELDS, Modality, Morphology, agreement
from dermo_ray.records import Record
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy, fold_label

FloatArray = NDArray[np.float64]


class Scores(Record):
    """An interval for every measure that applies: of one policy, or of the difference of two."""

    reward: Interval
    """The total reward."""
    terms: dict[str, Interval]
    """Each reward term, before gate and weight, over the prompts it applies to."""
    format_valid: Interval
    """Share of completions without any format fault."""
    derm7pt: dict[str, Interval]
    """Share of completions with the reference's value, for each field; over prompts with a Derm7pt reference."""
    skincon_f1: Interval | None
    """F1 of the stated features, pooled over all prompts with a SkinCon reference."""
    morphology: dict[Modality, Interval]
    """Agreement with the reference morphology, for each modality."""
    diagnosis_accuracy: Interval | None
    """Share of completions with the reference label, by any of its names; over task3 prompts with a label."""
    balanced_accuracy: Interval | None
    """Mean over the reference labels of the share of completions that state them."""


class LabelCounts(Record):
    """The reference labels of the held-out prompts, and what one could score without looking at the image."""

    prompts: dict[str, int]
    """Prompts of each reference label, the most frequent first."""
    majority_accuracy: float
    """Accuracy of always answering the most frequent label."""
    chance: float
    """Balanced accuracy of any one constant answer, and of uniform guessing: 1 / number of labels."""


class Measured(Record):
    """One policy with one way of decoding."""

    prompts: int
    completions: int
    scores: Scores
    unknown_label: float | None
    """Share of completions, where a diagnosis is asked for, that state no label of the taxonomy."""


class PolicyMeasures(Record):
    """One policy on the held-out prompts."""

    policy: str
    version: int
    labels: LabelCounts | None
    """None where no prompt asks for a diagnosis."""
    sampled: Measured | None
    """At temperature 1."""
    greedy: Measured | None


class Comparison(Record):
    """`after` minus `before`, paired by prompt."""

    before: str
    after: str
    prompts: int
    """Prompts that both policies answered in at least one way of decoding."""
    sampled: Scores | None
    greedy: Scores | None


class Evaluation(Record):
    """What `evaluation.json` holds."""

    before: PolicyMeasures
    after: PolicyMeasures
    difference: Comparison


def evaluate(
    before: Sequence[ScoredCompletion],
    after: Sequence[ScoredCompletion],
    taxonomy: Taxonomy,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Measure two policies and their difference; see `measure` and `compare`."""
    return Evaluation(
        before=measure(before, taxonomy, resamples=resamples, seed=seed),
        after=measure(after, taxonomy, resamples=resamples, seed=seed),
        difference=compare(before, after, taxonomy, resamples=resamples, seed=seed),
    )


def measure(
    rows: Sequence[ScoredCompletion], taxonomy: Taxonomy, *, resamples: int = 2000, seed: int = 0
) -> PolicyMeasures:
    """Every measure of one policy from its completions.

    Raises `ValueError` for no rows, rows of several policies or versions, or a prompt with unlike terms or references.
    """
    policy, version = _policy_of(rows)
    judged = {greedy: [_judge(row, taxonomy) for row in rows if row.greedy is greedy] for greedy in (False, True)}
    bootstrap = _Bootstrap(resamples, seed)
    return PolicyMeasures(
        policy=policy,
        version=version,
        labels=_label_counts([*judged[False], *judged[True]]),
        sampled=_measured(judged[False], bootstrap) if judged[False] else None,
        greedy=_measured(judged[True], bootstrap) if judged[True] else None,
    )


def compare(
    before: Sequence[ScoredCompletion],
    after: Sequence[ScoredCompletion],
    taxonomy: Taxonomy,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """What changed from `before` to `after`, over the prompts that both answered with the same kind of decoding.

    Raises `ValueError` for no rows, rows of several policies or versions on one side, no common prompt, or a prompt
    with unlike terms or references.
    """
    names = _policy_of(before)[0], _policy_of(after)[0]
    bootstrap = _Bootstrap(resamples, seed)
    scores: dict[bool, Scores | None] = {}
    common: set[str] = set()
    for greedy in (False, True):
        sides = [[row for row in rows if row.greedy is greedy] for rows in (before, after)]
        shared = {row.prompt_id for row in sides[0]} & {row.prompt_id for row in sides[1]}
        common |= shared
        old, new = ([_judge(row, taxonomy) for row in rows if row.prompt_id in shared] for rows in sides)
        scores[greedy] = _scores(_by_prompt(new), bootstrap, _by_prompt(old)) if shared else None
    if not common:
        raise ValueError(f"{names[0]} and {names[1]} have no prompt in common")
    return Comparison(before=names[0], after=names[1], prompts=len(common), sampled=scores[False], greedy=scores[True])


@dataclass(frozen=True)
class _Judged:
    """One completion against its reference."""

    prompt_id: str
    values: Mapping[str, float]
    """Measures that are plain means, by name."""
    pooled: tuple[float, float] | None
    """SkinCon: twice the features in common, and the features of both sides; their ratio is F1."""
    label: str | None
    """The reference label; None where no diagnosis is asked for."""
    answer: str | None
    known: bool
    """Whether the answer is in the taxonomy."""


def _judge(row: ScoredCompletion, taxonomy: Taxonomy) -> _Judged:
    completion, truth = parse(row.text, row.task), row.truth
    values = {"reward": row.reward, "format_valid": float(not row.faults)}
    values |= {f"terms/{name}": value for name, value in row.terms.items()}
    pooled = None
    stated, reference = completion.morphology, truth.comparable_morphology
    if reference is not None:
        values[f"morphology/{row.modality}"] = agreement(stated, reference)
        if reference.schema == "derm7pt":
            fields = {} if stated is None else stated.fields
            values |= {f"derm7pt/{name}": float(fields.get(name) == value) for name, value in reference.fields.items()}
        else:
            pooled = _overlap(stated, reference)
    asked = row.task == "task3" and truth.final_label is not None
    label = diagnosis_label(truth.final_label, taxonomy) if asked else None
    answer = diagnosis_label(completion.diagnosis, taxonomy) if asked else None
    if asked:
        values["diagnosis_accuracy"] = float(answer == label)
    return _Judged(row.prompt_id, values, pooled, label, answer, known=answer in taxonomy.labels)


def diagnosis_label(text: str | None, taxonomy: Taxonomy) -> str | None:
    """The canonical label; for text that is not in the tree its letters, as two spellings of it are still equal."""
    return None if text is None else taxonomy.canonical(text) or fold_label(text)


def _overlap(stated: Morphology | None, reference: Morphology) -> tuple[float, float]:
    if stated is None or stated.schema != "skincon":
        return 0.0, float(len(reference.features) or 1)  # the 1: where the reference is empty, nothing is not right
    both = 2.0 * len(stated.features & reference.features)
    return both, float(len(stated.features) + stated.unknown + len(reference.features))


Groups = Mapping[str, Sequence[_Judged]]
"""The completions of each prompt."""


class _Bootstrap(NamedTuple):
    """How intervals are found."""

    resamples: int
    seed: int


def _by_prompt(judged: Iterable[_Judged]) -> Groups:
    groups: defaultdict[str, list[_Judged]] = defaultdict(list)
    for item in judged:
        groups[item.prompt_id].append(item)
    return dict(sorted(groups.items()))


def _measured(judged: Sequence[_Judged], bootstrap: _Bootstrap) -> Measured:
    groups = _by_prompt(judged)
    asked = [item for item in judged if item.label is not None]
    return Measured(
        prompts=len(groups),
        completions=len(judged),
        scores=_scores(groups, bootstrap),
        unknown_label=sum(not item.known for item in asked) / len(asked) if asked else None,
    )


def _scores(groups: Groups, bootstrap: _Bootstrap, before: Groups | None = None) -> Scores:
    """The measures of `groups`, or their difference from those of `before`, which has the same prompts."""
    for prompt, items in groups.items():
        for item in (*items, *(before or {}).get(prompt, ())):
            if (item.values.keys(), item.label) != (items[0].values.keys(), items[0].label):
                raise ValueError(f"completions of {prompt} were not scored by the same terms and reference")
    names = sorted({name for items in groups.values() for name in items[0].values})
    means = {name: _mean_interval(name, groups, bootstrap, before) for name in names}

    def section(prefix: str) -> dict[Any, Interval]:
        return {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix)}

    fields = section("derm7pt/")
    return Scores(
        reward=means["reward"],
        terms=section("terms/"),
        format_valid=means["format_valid"],
        derm7pt={name: fields[name] for name in DERM7PT_FIELDS if name in fields},
        skincon_f1=_f1_interval(groups, bootstrap, before),
        morphology=section("morphology/"),
        diagnosis_accuracy=means.get("diagnosis_accuracy"),
        balanced_accuracy=_balanced_interval(groups, bootstrap, before),
    )


def _mean_interval(name: str, groups: Groups, bootstrap: _Bootstrap, before: Groups | None) -> Interval:
    prompts = [prompt for prompt, items in groups.items() if name in items[0].values]

    def column(side: Groups) -> FloatArray:
        return np.array([np.mean([item.values[name] for item in side[prompt]]) for prompt in prompts])

    values = column(groups) if before is None else column(groups) - column(before)
    return bootstrap_mean(values, **bootstrap._asdict())


def _f1_interval(groups: Groups, bootstrap: _Bootstrap, before: Groups | None) -> Interval | None:
    prompts = [prompt for prompt, items in groups.items() if items[0].pooled is not None]
    if not prompts:
        return None

    def columns(side: Groups) -> list[FloatArray]:
        pairs = [np.mean([item.pooled or (0.0, 0.0) for item in side[prompt]], axis=0) for prompt in prompts]
        return list(np.array(pairs).T)

    if before is None:
        return bootstrap_statistic(columns(groups), _ratio, **bootstrap._asdict())
    return bootstrap_statistic([*columns(groups), *columns(before)], _ratio_difference, **bootstrap._asdict())


def _balanced_interval(groups: Groups, bootstrap: _Bootstrap, before: Groups | None) -> Interval | None:
    """Both sides stand in one table, so that a prompt's completions of either side are drawn together."""
    sides = [groups] if before is None else [groups, before]
    rows = [
        (item.label, item.answer, 1.0 / len(items), index, prompt)
        for index, side in enumerate(sides)
        for prompt, items in side.items()
        for item in items
        if item.label is not None
    ]
    if not rows:
        return None
    labels, answers, shares, side_of_row, prompts = zip(*rows, strict=True)

    def statistic(
        truth: NDArray[Any], answer: NDArray[Any], share: FloatArray, side: NDArray[Any], weights: FloatArray
    ) -> FloatArray:
        new, *old = (balanced_accuracy(truth, answer, weights * share * (side == index)) for index in range(len(sides)))
        return new - old[0] if old else new

    columns = [np.array(labels), np.array(answers, dtype=object), np.array(shares), np.array(side_of_row)]
    return bootstrap_statistic(columns, statistic, groups=np.array(prompts), **bootstrap._asdict())


def _ratio(part: FloatArray, whole: FloatArray, weights: FloatArray) -> FloatArray:
    """Of the pooled sums; 1 where there is nothing to find and nothing was stated."""
    parts, wholes = weights @ part, weights @ whole
    return np.divide(parts, wholes, out=np.ones_like(parts), where=wholes > 0)


def _ratio_difference(
    part: FloatArray, whole: FloatArray, old_part: FloatArray, old_whole: FloatArray, weights: FloatArray
) -> FloatArray:
    return _ratio(part, whole, weights) - _ratio(old_part, old_whole, weights)


def _label_counts(judged: Iterable[_Judged]) -> LabelCounts | None:
    label_of_prompt = {item.prompt_id: item.label for item in judged if item.label is not None}
    if not label_of_prompt:
        return None
    counts = Counter(label_of_prompt.values())
    ordered = dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
    return LabelCounts(
        prompts=ordered,
        majority_accuracy=max(counts.values()) / len(label_of_prompt),
        chance=1 / len(counts),
    )


def _policy_of(rows: Sequence[ScoredCompletion]) -> tuple[str, int]:
    found = sorted({(row.policy, row.version) for row in rows})
    if len(found) != 1:
        raise ValueError(f"completions of one policy in one version are needed, not of {found}")
    return found[0]
