"""Metrics and bootstrap intervals.

The bootstrap (Efron, 1979; percentile intervals) draws items, or whole groups of them, with replacement. A resample is
a vector of weights, how often each item was drawn, so that a metric that takes weights is computed for many resamples
at once and groups of different sizes need no copies. Weights come in chunks, so memory stays bounded.

Invariants: equal input and seed give equal intervals; items of one group are drawn together or not at all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Labels = ArrayLike | Sequence[str | None]
"""One label an item, [n]; None is no answer, and so a wrong one."""
Statistic = Callable[..., Any]
"""Called with the columns, each [n], and `weights` [R, n]; returns the statistic of each resample, [R]."""

_WEIGHTS_PER_CHUNK = 2_000_000  # 16 MB of float64
_UNITS_PER_KIND = 8
"""Drawing how often one kind of unit occurs takes about as long as drawing so many units."""


@dataclass(frozen=True)
class Interval:
    """The statistic of the sample itself (`mean`, though it need not be one) and the ends of its interval."""

    mean: float
    low: float
    high: float


@overload
def accuracy(truth: Labels, predicted: Labels, weights: None = None) -> float: ...
@overload
def accuracy(truth: Labels, predicted: Labels, weights: FloatArray) -> FloatArray: ...
def accuracy(truth: Labels, predicted: Labels, weights: FloatArray | None = None) -> float | FloatArray:
    """The share of items [n] predicted right; with `weights` [R, n] one share for each row, [R].

    Raises `ValueError` for empty or unequal columns.
    """
    labels, hits = _hits(truth, predicted)
    rows = np.ones((1, len(labels))) if weights is None else weights
    result = rows @ hits / rows.sum(axis=1)
    return float(result[0]) if weights is None else result


@overload
def balanced_accuracy(truth: Labels, predicted: Labels, weights: None = None) -> float: ...
@overload
def balanced_accuracy(truth: Labels, predicted: Labels, weights: FloatArray) -> FloatArray: ...
def balanced_accuracy(truth: Labels, predicted: Labels, weights: FloatArray | None = None) -> float | FloatArray:
    """The mean recall over the classes present in `truth` [n]; with `weights` [R, n] one value for each row, [R].

    A class counts as present in a row where one of its items has weight. Source: Brodersen et al., ICPR 2010.
    Raises `ValueError` for empty or unequal columns.
    """
    labels, hits = _hits(truth, predicted)
    return macro_mean(hits, labels, weights)


@overload
def macro_mean(values: ArrayLike, names: ArrayLike, weights: None = None) -> float: ...
@overload
def macro_mean(values: ArrayLike, names: ArrayLike, weights: FloatArray) -> FloatArray: ...
def macro_mean(values: ArrayLike, names: ArrayLike, weights: FloatArray | None = None) -> float | FloatArray:
    """The mean over the classes in `names` [n] of each one's mean of `values` [n]; with `weights` [R, n] [R] of them.

    A class counts as present in a row where one of its items has weight. Raises `ValueError` for empty or unequal
    columns.
    """
    column, labels = np.asarray(values, dtype=np.float64), np.asarray(names)
    _common_length(column, labels)
    rows = np.ones((1, len(labels))) if weights is None else weights
    _, codes = np.unique(labels, return_inverse=True)
    by_class = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[by_class], prepend=-1))
    sorted_rows = rows[:, by_class]
    support = np.add.reduceat(sorted_rows, starts, axis=1)
    sums = np.add.reduceat(sorted_rows * column[by_class], starts, axis=1)
    present = support > 0
    means = np.divide(sums, support, out=np.zeros_like(sums), where=present)
    result: FloatArray = means.sum(axis=1) / present.sum(axis=1)
    return float(result[0]) if weights is None else result


def bootstrap_statistic(
    columns: Sequence[ArrayLike],
    statistic: Statistic,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of `statistic(*columns, weights=...)` over resampled items, or groups such as patients or lesions.

    `columns` are arrays [n]; `statistic` takes them and `weights` [R, n] and returns [R], as `accuracy` and
    `balanced_accuracy` do; `groups` [n] names the group of each item; `level` is the coverage, in (0, 1).

    Raises `ValueError` for empty or unequal columns, and for a level or number of resamples out of range.
    """

    def as_column(*arrays: NDArray[Any], weights: FloatArray) -> FloatArray:
        return np.asarray(statistic(*arrays, weights=weights))[:, None]

    return bootstrap_statistics(columns, as_column, groups=groups, resamples=resamples, level=level, seed=seed)[0]


def bootstrap_statistics(
    columns: Sequence[ArrayLike],
    statistic: Statistic,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """The intervals of K statistics of the same resamples; `statistic` returns [R, K]. See `bootstrap_statistic`."""
    _check(level, resamples)
    arrays = [np.asarray(column) for column in columns]
    named = arrays if groups is None else [*arrays, np.asarray(groups)]
    items = _common_length(*named)
    values = np.concatenate(
        [statistic(*arrays, weights=weights) for weights in _resampled_weights(items, groups, resamples, seed)]
    )
    points = statistic(*arrays, weights=np.ones((1, items)))[0]
    return tuple(interval(point, column, level) for point, column in zip(points, values.T, strict=True))


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `values` [n] and its interval; see `bootstrap_statistic`.

    Raises `ValueError` also for a value that is NaN or infinite.
    """
    _check(level, resamples)
    means = resampled_means(values, groups=groups, resamples=resamples, seed=seed)
    return interval(float(np.mean(np.asarray(values, dtype=np.float64))), means, level)


def resampled_means(
    values: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 2000, seed: int | Sequence[int] = 0
) -> FloatArray:
    """The mean of `values` [n] in each resample, [R]. Raises `ValueError` as `bootstrap_mean` does."""
    column = np.asarray(values, dtype=np.float64)
    means = resampled_class_means(column, np.zeros(column.shape), groups=groups, resamples=resamples, seed=seed)
    return means[:, 0]


def resampled_class_means(
    values: ArrayLike,
    names: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int | Sequence[int] = 0,
) -> FloatArray:
    """The mean of `values` [n] for each of the C `names` [n], in their order, in each resample, [R, C].

    NaN where no item of a name was drawn. Raises `ValueError` as `bootstrap_mean` does.
    """
    column, labels = np.asarray(values, dtype=np.float64), np.asarray(names)
    named = [column, labels] if groups is None else [column, labels, np.asarray(groups)]
    items = _common_length(*named)
    bad = np.flatnonzero(~np.isfinite(column))
    if bad.size:
        raise ValueError(f"value is not finite: index {bad[0]}")
    units = np.arange(items) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    classes, codes = np.unique(labels, return_inverse=True)
    # what a unit adds to a resample: the sum and the number of its items of each class
    shape = (int(units.max()) + 1, len(classes))
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (units, codes), column)
    np.add.at(counts, (units, codes), 1)
    kinds, numbers = np.unique(np.concatenate([sums, counts], axis=1), axis=0, return_counts=True)
    if _UNITS_PER_KIND * len(kinds) <= len(sums):
        # how often units of each kind are drawn is multinomial: the same distribution in a fraction of the time
        drawn = np.random.default_rng(seed).multinomial(len(sums), numbers / len(sums), size=resamples)
        totals = drawn @ kinds
    else:
        both = np.concatenate([sums, counts], axis=1)
        totals = np.concatenate([weights @ both for weights in _resampled_weights(len(sums), None, resamples, seed)])
    sums, counts = totals[:, : len(classes)], totals[:, len(classes) :]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def interval(point: float, resampled: FloatArray, level: float = 0.95) -> Interval:
    """The percentile interval of a statistic that is `point` of the sample itself and `resampled` [R] of resamples."""
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(point), float(low), float(high))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `a - b` [n], each pair from the same item, and its interval; see `bootstrap_mean`."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    _common_length(first, second)
    return bootstrap_mean(first - second, groups=groups, resamples=resamples, level=level, seed=seed)


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must be in (0, 1) and resamples at least 1, not {level} and {resamples}")


def _resampled_weights(
    items: int, groups: ArrayLike | None, resamples: int, seed: int | Sequence[int]
) -> Iterator[FloatArray]:
    """How often each of `items` was drawn in each resample, [chunk, items], until there are `resamples` rows."""
    rng = np.random.default_rng(seed)
    units, unit_of_item = items, None
    if groups is not None:
        names, unit_of_item = np.unique(np.asarray(groups), return_inverse=True)
        units = len(names)
    chunk = max(1, _WEIGHTS_PER_CHUNK // items)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws = rng.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)
        yield counts if unit_of_item is None else counts[:, unit_of_item]


def _hits(truth: Labels, predicted: Labels) -> tuple[NDArray[Any], FloatArray]:
    labels, answers = np.asarray(truth), np.asarray(predicted)
    _common_length(labels, answers)
    return labels, (labels == answers).astype(np.float64)


def _common_length(*columns: NDArray[Any]) -> int:
    shapes = [column.shape for column in columns]
    if not shapes or len(shapes[0]) != 1 or shapes[0][0] == 0 or len(set(shapes)) != 1:
        raise ValueError(f"columns must be [n] with one n above 0, not {[list(shape) for shape in shapes]}")
    length: int = shapes[0][0]
    return length
