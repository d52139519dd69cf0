"""The area under the ROC curve, with weights."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def auroc(positive: npt.ArrayLike, scores: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """The probability that a positive item scores above a negative one, ties counting half; one value a row, [R].

    `positive` and `scores` are [n], `weights` [R, n] is how often each item counts in each row. NaN in a row where one
    of the two classes has no weight.
    """
    positive = np.asarray(positive, dtype=bool)
    values, codes = np.unique(np.asarray(scores), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(values)))
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + negatives / 2)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
