"""The fairness of a model over skin tones: the accuracy of the worst group as a share of the best group's.

DermoBench's score is 1 - (max - min) / max, which is the same. It says nothing about the level: a model that is wrong
everywhere alike is called unfair (0) by definition, one that is poor everywhere alike fair.

Invariants: items whose skin tone is not known are in no group; fewer than two groups have no score, where the authors'
script gives 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dermo_ray.bench.breakdown import GroupScore
from dermo_ray.bench.statistics import FloatArray, Interval, interval, resampled_means
from dermo_ray.records import Record


class Fairness(Record):
    """How alike a model serves groups of people."""

    score: Interval | None
    """Worst group's accuracy / best group's; 0 where nothing is right, None for fewer than two groups."""
    groups: dict[str, GroupScore]
    """Accuracy of each group, with its size."""
    unknown: int
    """Items whose group is not known."""


def fairness(
    right: ArrayLike,
    skin_tones: Sequence[str | None],
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Fairness:
    """The fairness of answers [n] over skin tones [n]; None is a tone that is not known.

    Each tone is resampled by itself, so that its size stays; within it `groups` [n] are drawn together, such as
    patients. The least of several noisy accuracies lies below the least of the true ones, and so the score is
    pessimistic where groups are small, its interval even more.
    """
    values, tones = np.asarray(right, dtype=np.float64), np.asarray(skin_tones, dtype=object)
    names = sorted({tone for tone in skin_tones if tone is not None})
    table: dict[str, GroupScore] = {}
    means: list[FloatArray] = []
    for index, name in enumerate(names):
        own = np.flatnonzero(tones == name)
        drawn = None if groups is None else np.asarray(groups)[own]
        # a seed for each: two tones drawn by the same numbers would rise and fall together
        means.append(resampled_means(values[own], groups=drawn, resamples=resamples, seed=[seed, index]))
        table[name] = GroupScore(items=len(own), mean=interval(values[own].mean(), means[-1]))
    score = None
    if len(names) > 1:
        accuracies = np.array([[group.mean.mean for group in table.values()]])
        score = interval(fairness_score(accuracies)[0], fairness_score(np.array(means).T))
    return Fairness(score=score, groups=table, unknown=skin_tones.count(None))


def fairness_score(accuracies: FloatArray) -> FloatArray:
    """Worst / best group of each row, [R, groups] -> [R]; 0 where the best is at 0."""
    worst, best = accuracies.min(axis=1), accuracies.max(axis=1)
    return np.divide(worst, best, out=np.zeros_like(best), where=best > 0)
