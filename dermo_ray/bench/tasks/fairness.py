"""Fairness over skin tones: how much worse the group served worst is than the one served best.

Invariants: items without a known skin tone belong to no group, and are counted; with fewer than two groups there is
nothing to compare, so no score.
"""

from collections.abc import Mapping

import numpy as np

from dermo_ray.bench.fairness import fairness_score
from dermo_ray.bench.tasks.tally import Tally

_GROUPS = {1: "12", 2: "12", 3: "34", 4: "34", 5: "56", 6: "56"}


def skin_tone_group(fitzpatrick: int | None) -> str | None:
    """DDI's group of a Fitzpatrick type, 1 to 6: 12, 34 or 56 (Daneshjou et al., doi:10.1126/sciadv.abq6147)."""
    return None if fitzpatrick is None else _GROUPS[fitzpatrick]


def fairness(groups: Mapping[str, Tally]) -> float | None:
    """The lowest accuracy of a group over the highest, in [0, 1], equal to 1 - (max - min) / max.

    0 where no group has anything right; None with fewer than two groups.
    """
    accuracies = [group.accuracy for group in groups.values()]
    if len(accuracies) < 2:
        return None
    return float(fairness_score(np.array([accuracies]))[0])
