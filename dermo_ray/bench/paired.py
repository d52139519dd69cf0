"""Two models on the same items: the difference, its interval, and McNemar's exact test.

Invariant: an item counts on both sides or not at all.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from dermo_ray.bench.statistics import Interval, bootstrap_mean, paired_difference
from dermo_ray.records import Record


class McNemar(Record):
    """The items that one of two models alone got right."""

    only_before: int
    only_after: int
    p_value: float
    """Two-sided and exact: how likely is a split so uneven, were both models equally often right alone."""


class PairedComparison(Record):
    """What changed from one model, `before`, to another, `after`."""

    items: int
    before: Interval
    after: Interval
    difference: Interval
    """Mean of after - before, paired by item."""
    mcnemar: McNemar | None
    """None for scores that aren't simply right or wrong."""


def compare(
    before: ArrayLike, after: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> PairedComparison:
    """Compare two models' scores [n] of the same items in the same order; bools are answers, right or wrong.

    `groups` [n] names what is drawn together, such as the patient. McNemar's test takes items for independent: where
    several share a group it is too sure, and the interval is to be believed. Raises `ValueError` as `bootstrap_mean`.
    """
    first, second = np.asarray(before), np.asarray(after)
    difference = paired_difference(second, first, groups=groups, resamples=resamples, seed=seed)
    answers = first.dtype == second.dtype == np.bool_
    return PairedComparison(
        items=len(first),
        before=bootstrap_mean(first, groups=groups, resamples=resamples, seed=seed),
        after=bootstrap_mean(second, groups=groups, resamples=resamples, seed=seed),
        difference=difference,
        mcnemar=mcnemar(int((first & ~second).sum()), int((second & ~first).sum())) if answers else None,
    )


def mcnemar(only_before: int, only_after: int) -> McNemar:
    """McNemar's exact test (McNemar, 1947) of so many items that one model alone got right; 1 where there are none."""
    discordant = only_before + only_after
    p_value = binomtest(only_after, discordant).pvalue if discordant else 1.0
    return McNemar(only_before=only_before, only_after=only_after, p_value=float(p_value))
