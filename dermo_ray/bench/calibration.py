"""Whether a model is right as often as it is sure: expected calibration error (ECE) and the bins of a reliability plot.

ECE is the mean over bins, weighted by their items, of |accuracy - mean confidence| (Naeini et al., AAAI 2015; Guo et
al., ICML 2017). Bins have equal width, or hold equally many items (Nixon et al., CVPR workshop 2019).

Invariant: answers that are equally sure are in one bin, so that no result depends on the order of items.
"""

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from dermo_ray.bench.confidence import confidences_and_hits
from dermo_ray.bench.statistics import FloatArray, Interval, bootstrap_statistics
from dermo_ray.records import Record

Binning = Literal["equal_width", "equal_mass"]


class Calibration(Record):
    """How well confidences are calibrated."""

    bins: int
    ece: dict[Binning, Interval]
    """In [0, 1], for both kinds of bins."""
    ece_if_calibrated: dict[Binning, float]
    """What a perfectly calibrated model with these confidences would show on so many items: noise alone is no 0."""


class ReliabilityBin(Record):
    """One bin of a reliability plot."""

    items: int
    confidence: float
    """Mean confidence."""
    accuracy: float


def calibration(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    bins: int = 15,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Calibration:
    """ECE of answers [n] given with `confidence` [n] in [0, 1], and what it would be if there were no error.

    Noise in the bins makes ECE too great, and that of resamples greater still. The intervals are therefore bootstrap
    intervals reflected about the estimate (basic intervals: Davison and Hinkley, 1997, section 5.2), cut off at 0 and
    widened to hold it. Items stay in the bins of the whole sample. Raises `ValueError` as `confidences_and_hits` does.
    """
    sure, hits = confidences_and_hits(confidence, right)
    binnings = get_args(Binning)
    members = [np.eye(bins)[bin_of(sure, bins, binning)] for binning in binnings]

    def statistic(gaps: FloatArray, weights: FloatArray) -> FloatArray:
        errors = [np.abs(weights @ (gaps[:, None] * member)).sum(axis=1) for member in members]
        return np.stack(errors, axis=1) / weights.sum(axis=1, keepdims=True)

    intervals = bootstrap_statistics([hits - sure], statistic, groups=groups, resamples=resamples, seed=seed)
    variance = sure * (1 - sure)
    return Calibration(
        bins=bins,
        ece={binning: _reflected(percentile) for binning, percentile in zip(binnings, intervals, strict=True)},
        # the mean of |x| for a normal x of mean 0 is sqrt(2 variance / pi)
        ece_if_calibrated={
            binning: float(np.sqrt(2 / math.pi * (variance @ member)).sum() / len(sure))
            for binning, member in zip(binnings, members, strict=True)
        },
    )


def ece(confidence: ArrayLike, right: ArrayLike, *, bins: int = 15, binning: Binning = "equal_width") -> float:
    """The expected calibration error, in [0, 1]. Raises `ValueError` as `confidences_and_hits` does."""
    sure, hits = confidences_and_hits(confidence, right)
    gaps = np.bincount(bin_of(sure, bins, binning), hits - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def reliability(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = 15, binning: Binning = "equal_width"
) -> list[ReliabilityBin]:
    """The bins that hold items, the least sure first. Raises `ValueError` as `confidences_and_hits` does."""
    sure, hits = confidences_and_hits(confidence, right)
    places = bin_of(sure, bins, binning)
    return [
        ReliabilityBin(
            items=int((places == place).sum()),
            confidence=float(sure[places == place].mean()),
            accuracy=float(hits[places == place].mean()),
        )
        for place in np.unique(places)
    ]


def bin_of(confidence: FloatArray, bins: int, binning: Binning) -> NDArray[np.intp]:
    """The bin of each confidence [n], from 0; a bin of equal width holds its lower edge, the last one both.

    Of equal mass: by mean rank, which ties share.
    """
    share = confidence if binning == "equal_width" else (rankdata(confidence) - 0.5) / len(confidence)
    return np.minimum((share * bins).astype(np.intp), bins - 1)


def _reflected(percentile: Interval) -> Interval:
    point = percentile.mean
    low, high = 2 * point - percentile.high, 2 * point - percentile.low
    return Interval(point, max(0.0, min(point, low)), min(1.0, max(point, high)))
