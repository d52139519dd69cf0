"""How far each rollout agrees with the others.

s_i is the mean similarity of rollout i's answer to those of the other rollouts, averaged with the mean agreement of its
morphology with theirs where it and another state one.

Invariants: s_i lies in [0, 1]; a lone rollout has nothing to contradict it and has 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from dermo_ray.cct.rollout import Rollout
from dermo_ray.morphology import agreement
from dermo_ray.taxonomy import Taxonomy

Similarity = Callable[[str, str], float]
"""How near two answers are, in [0, 1]."""


def exact(first: str, second: str) -> float:
    """1 for equal answers, else 0: right for options."""
    return float(first == second)


def by_taxonomy(taxonomy: Taxonomy) -> Similarity:
    """1 for equal answers, else how close they are in the tree: right for diagnoses, in the tree or not."""
    return lambda first, second: 1.0 if first == second else taxonomy.similarity(first, second)


def similarities(answers: Sequence[str], similarity: Similarity) -> Mapping[tuple[str, str], float]:
    """The similarity of every pair of different `answers`, and of each to itself.

    Raises `ValueError` for a similarity outside [0, 1].
    """
    distinct = sorted(set(answers))
    table = {(first, second): similarity(first, second) for first in distinct for second in distinct}
    for (first, second), value in table.items():
        if not 0 <= value <= 1:
            raise ValueError(f"the similarity of {first!r} to {second!r} is not in [0, 1]: {value}")
    return table


def consistencies(rollouts: Sequence[Rollout], similarity: Similarity = exact) -> list[float]:
    """s_i of each rollout. Raises `ValueError` for a similarity outside [0, 1]."""
    if len(rollouts) == 1:
        return [1.0]
    table = similarities([rollout.answer for rollout in rollouts], similarity)
    result = []
    for i, rollout in enumerate(rollouts):
        others = [other for j, other in enumerate(rollouts) if j != i]
        parts = [_mean([table[rollout.answer, other.answer] for other in others])]
        agreements = agreements_with(rollout, others)
        if agreements:
            parts.append(_mean(agreements))
        result.append(_mean(parts))
    return result


def agreements_with(rollout: Rollout, others: Sequence[Rollout]) -> list[float]:
    """How far the rollout's morphology agrees with that of each other that states one; empty where it states none."""
    if rollout.morphology is None:
        return []
    return [agreement(rollout.morphology, other.morphology) for other in others if other.morphology is not None]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
