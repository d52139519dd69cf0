"""What a model gains by answering only where it is sure: risk-coverage curve, its area, accuracy at a coverage.

Coverage is the share of items that are answered, the surest first; risk is the share of errors among those. Of items
that are equally sure any may come first: results are means over their orders, so that none depends on the order of the
items and a constant confidence gains nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dermo_ray.bench.confidence import confidences_and_hits
from dermo_ray.bench.statistics import FloatArray, Interval, bootstrap_statistics
from dermo_ray.records import Record


class Selective(Record):
    """Selective prediction at one coverage, and over all."""

    coverage: float
    accuracy: Interval
    """Of all items."""
    selective_accuracy: Interval
    """Of the surest items, `coverage` of all."""
    gain: Interval
    """The difference of both, over the same resamples."""
    aurc: Interval
    """Area under the risk-coverage curve: the mean risk over all coverages; small is good."""


@dataclass(frozen=True)
class RiskCoverage:
    """The curve, one point for each distinct confidence, from the surest on; [m] each."""

    confidence: FloatArray
    """Answer where the model is at least so sure."""
    coverage: FloatArray
    risk: FloatArray


def selective(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    coverage: float = 0.8,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Selective:
    """Selective prediction of answers [n] given with `confidence` [n] in [0, 1], with bootstrap intervals.

    Raises `ValueError` as `confidences_and_hits` does, and for a coverage outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], not {coverage}")
    sure, hits = confidences_and_hits(confidence, right)
    order = _surest_first(sure)
    drawn = None if groups is None else np.asarray(groups)[order]

    def statistic(sure: FloatArray, hits: FloatArray, weights: FloatArray) -> FloatArray:
        blocks = _blocks(sure, hits, weights)
        every = 1 - blocks.errors_through[:, -1] / blocks.through[:, -1]
        some = _right_of_surest(blocks, coverage)
        return np.stack([every, some, some - every, _aurc(blocks)], axis=1)

    accuracy, selective_accuracy, gain, area = bootstrap_statistics(
        [sure[order], hits[order]], statistic, groups=drawn, resamples=resamples, seed=seed
    )
    return Selective(coverage=coverage, accuracy=accuracy, selective_accuracy=selective_accuracy, gain=gain, aurc=area)


def selective_accuracy(confidence: ArrayLike, right: ArrayLike, coverage: float) -> float:
    """The accuracy of the surest items, `coverage` of all rounded up. Raises `ValueError` as `selective` does."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], not {coverage}")
    return float(_right_of_surest(_unweighted(confidence, right), coverage)[0])


def aurc(confidence: ArrayLike, right: ArrayLike) -> float:
    """The mean risk of the k surest items over k = 1 to n (Geifman, Uziel and El-Yaniv, ICLR 2019).

    Raises `ValueError` as `confidences_and_hits` does.
    """
    return float(_aurc(_unweighted(confidence, right))[0])


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """The curve. Raises `ValueError` as `confidences_and_hits` does."""
    blocks = _unweighted(confidence, right)
    answered, errors = blocks.through[0], blocks.errors_through[0]
    thresholds = np.unique(np.asarray(confidence, dtype=np.float64))[::-1]
    return RiskCoverage(thresholds, answered / answered[-1], errors / answered)


@dataclass(frozen=True)
class _Blocks:
    """Items of equal confidence, the surest block first, for each resample: [R, blocks] each."""

    items: FloatArray
    errors: FloatArray
    through: FloatArray
    """Items in this block and in surer ones."""
    errors_through: FloatArray


def _surest_first(sure: FloatArray) -> NDArray[np.intp]:
    return np.argsort(-sure, kind="stable")


def _blocks(sure: FloatArray, hits: FloatArray, weights: FloatArray) -> _Blocks:
    """The blocks of items [n], the surest first, under `weights` [R, n], how often each was drawn."""
    starts = np.flatnonzero(np.diff(sure, prepend=2.0))  # 2: no confidence is equal to it
    items, errors = weights, weights * (1 - hits)
    if len(starts) < len(sure):
        items, errors = np.add.reduceat(items, starts, axis=1), np.add.reduceat(errors, starts, axis=1)
    return _Blocks(items, errors, np.cumsum(items, axis=1), np.cumsum(errors, axis=1))


def _unweighted(confidence: ArrayLike, right: ArrayLike) -> _Blocks:
    sure, hits = confidences_and_hits(confidence, right)
    order = _surest_first(sure)
    return _blocks(sure[order], hits[order], np.ones((1, len(sure))))


def _right_of_surest(blocks: _Blocks, coverage: float) -> FloatArray:
    """The accuracy of the first `coverage` of the items, [R]: of the block where that ends, its share of errors."""
    answered = np.maximum(np.ceil(coverage * blocks.through[:, -1] - 1e-9), 1)  # 1e-9: 0.07 * 100 is above 7
    rows = np.arange(len(answered))
    last = [np.searchsorted(through, count) for through, count in zip(blocks.through, answered, strict=True)]
    items, errors = blocks.items[rows, last], blocks.errors[rows, last]
    beyond = blocks.through[rows, last] - answered
    return np.asarray(1 - (blocks.errors_through[rows, last] - beyond * errors / items) / answered)


def _aurc(blocks: _Blocks) -> FloatArray:
    """The mean risk over coverages, [R].

    Within a block of m items with e errors, after b items with a errors, the k surest have a + (k - b) e / m errors: a
    risk of e / m + (a - b e / m) / k. Its sum over the block takes the sum of 1 / k, a difference of harmonic numbers.
    """
    total = blocks.through[:, -1]
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total.max()) + 1))])
    reciprocals = np.diff(harmonic[blocks.through.astype(np.intp)], prepend=0.0, axis=1)
    rate = blocks.errors / np.maximum(blocks.items, 1)  # a block that wasn't drawn has no errors
    # a - b e / m is the same at both ends of a block
    intercept = blocks.errors_through - blocks.through * rate
    return np.asarray((blocks.errors_through[:, -1] + np.einsum("rb,rb->r", intercept, reciprocals)) / total)
