"""The columns that calibration and selective prediction share, checked."""

import numpy as np
from numpy.typing import ArrayLike

from dermo_ray.bench.statistics import FloatArray


def confidences_and_hits(confidence: ArrayLike, right: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """How sure a model was of each answer and whether it was right, [n] each, as floats.

    Raises `ValueError` for columns that are empty or unequal, and for a confidence outside [0, 1].
    """
    sure, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != hits.shape or not sure.size:
        raise ValueError(f"columns must be [n] with one n above 0, not {[list(sure.shape), list(hits.shape)]}")
    bad = np.flatnonzero(~((sure >= 0) & (sure <= 1)))
    if bad.size:
        raise ValueError(f"confidence is not in [0, 1]: index {bad[0]}")
    return sure, hits
