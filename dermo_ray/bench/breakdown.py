"""Tables: a score for each group of items (skin tone, concept, modality), and recall and precision for each class.

Invariants: a number stands beside the size of what it was counted on; a group of one's own is never made of items whose
group is not known.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dermo_ray.bench.statistics import (
    Interval,
    Labels,
    bootstrap_mean,
    interval,
    macro_mean,
    resampled_class_means,
)
from dermo_ray.records import Record


class GroupScore(Record):
    """The items of one group."""

    items: int
    mean: Interval


class ClassScore(Record):
    """One label of a diagnosis or concept."""

    items: int
    """Items whose reference it is."""
    predicted: int
    """Items for which it was answered."""
    recall: Interval | None
    """Share of its items that were answered with it; None where it has no items."""
    precision: Interval | None
    """Share right of the answers that name it; None where none does."""
    f1: Interval
    """Harmonic mean of both, 0 where no answer is right."""


def by_group(
    values: ArrayLike,
    names: Sequence[str | None],
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, GroupScore]:
    """The mean of `values` [n] for each name, in alphabetical order; items without a name (None) are left out.

    `groups` [n] names what is drawn together, such as the patient.
    """
    column = np.asarray(values, dtype=np.float64)
    table = {}
    for name in sorted({name for name in names if name is not None}):
        chosen = _places(names, name)
        drawn = None if groups is None else np.asarray(groups)[chosen]
        mean = bootstrap_mean(column[chosen], groups=drawn, resamples=resamples, seed=seed)
        table[name] = GroupScore(items=len(chosen), mean=mean)
    return table


def macro_average(
    values: ArrayLike,
    names: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean over the names of each one's mean of `values` [n], whatever their sizes."""
    means = resampled_class_means(values, names, groups=groups, resamples=resamples, seed=seed)
    return interval(macro_mean(values, names), np.nanmean(means, axis=1))


def by_class(
    truth: Sequence[str],
    predicted: Sequence[str | None],
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, ClassScore]:
    """Every label in `truth` or `predicted` [n each], in alphabetical order; None is no answer, and so a wrong one."""
    drawn = np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]

    def share(chosen: NDArray[np.intp]) -> Interval:
        return bootstrap_mean(right[chosen], groups=drawn[chosen], resamples=resamples, seed=seed)

    right = np.array([label == answer for label, answer in zip(truth, predicted, strict=True)], dtype=np.float64)
    table = {}
    for label in sorted({*truth, *(answer for answer in predicted if answer is not None)}):
        own, answered = _places(truth, label), _places(predicted, label)
        table[label] = ClassScore(
            items=len(own),
            predicted=len(answered),
            recall=share(own) if len(own) else None,
            precision=share(answered) if len(answered) else None,
            # a right answer stands in both columns: 2 right / (true + answered)
            f1=share(np.concatenate([own, answered])),
        )
    return table


def _places(labels: Labels, label: str) -> NDArray[np.intp]:
    return np.flatnonzero(np.asarray(labels, dtype=object) == label)
