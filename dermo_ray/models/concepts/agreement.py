"""How well a stated morphology fits the probabilities of concepts: the agreement to expect, against the best there is.

`dermo_ray.morphology.agreement` compares a statement with a reference. Here the reference is not known; it is drawn
from the model's own probabilities, concepts independent of each other. A statement's expected agreement, divided by the
largest that any statement could expect, lies in [0, 1] and is 1 for the best statement alone: naming every feature
costs precision, naming none costs recall, and a guess is worth its probability.
"""

import numpy as np
import numpy.typing as npt

from dermo_ray.models.concepts.vocabulary import FIELD_SLICES, vector
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology, Schema

FloatArray = npt.NDArray[np.float64]


def expected_agreement(morphology: Morphology, probabilities: FloatArray) -> float:
    """E[agreement(morphology, reference)] with the reference drawn from `probabilities` [48] or [28]; exact."""
    stated = vector(morphology) > 0
    if morphology.schema == "derm7pt":
        return float(probabilities[stated].sum()) / len(DERM7PT_FIELDS)
    present, others = _counts(probabilities[stated]), _counts(probabilities[~stated])
    return _expected_f1(present, others, len(morphology.features) + morphology.unknown)


def best_agreement(schema: Schema, probabilities: FloatArray) -> float:
    """The largest expected agreement of any statement.

    Of Derm7pt it is that of the likeliest values. Of SkinCon it is that of the k likeliest features, for some k: with
    independent features the set that expects the highest F1 is a head of the ranking (Lewis, SIGIR 1995).
    """
    if schema == "derm7pt":
        return sum(float(probabilities[place].max()) for place in FIELD_SLICES.values()) / len(DERM7PT_FIELDS)
    ranked = np.sort(probabilities)[::-1]
    present, others = [np.ones(1)], [np.ones(1)]
    for p in ranked:
        present.append(_with_one_more(present[-1], p))
    for p in ranked[::-1]:
        others.append(_with_one_more(others[-1], p))
    return max(_expected_f1(present[k], others[-1 - k], k) for k in range(len(ranked) + 1))


def _expected_f1(present: FloatArray, others: FloatArray, stated: int) -> float:
    """Expected F1 of `stated` features, given how many of them (`present`) and of the others are in the reference.

    Two empty sets agree, as in `dermo_ray.morphology.agreement`.
    """
    if stated == 0:
        return float(others[0])
    hits, missed = np.arange(len(present))[:, None], np.arange(len(others))[None, :]
    return float(present @ (2 * hits / (stated + hits + missed)) @ others)


def _counts(probabilities: FloatArray) -> FloatArray:
    """The distribution of how many of independent events happen, [n + 1]."""
    distribution = np.ones(1)
    for p in probabilities:
        distribution = _with_one_more(distribution, p)
    return distribution


def _with_one_more(distribution: FloatArray, p: float) -> FloatArray:
    longer: FloatArray = np.convolve(distribution, np.array([1 - p, p]))
    return longer
