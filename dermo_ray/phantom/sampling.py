"""Which morphologies a population of phantoms has, given the diagnosis.

Dermoscopic: over a population with equal shares of all diagnoses, the joint distribution of the seven fields is the one
of maximal entropy with the `FIELD_SHARES` (found by iterative proportional fitting over all combinations). So the
fields stay nearly independent: neither the prior nor its neighbours give a value away.
Clinical: a diagnosis brings its core features, and further ones join at random as long as the picture stays drawable
and the diagnosis the same.
Invariant: `diagnose(sample_morphology(name, rng)) == name`.
"""

import itertools
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.phantom.clinical import COLOURED_FORMS, COLOURS, DRAWN_FEATURES, FORMS, SCATTERED, SURFACES
from dermo_ray.phantom.diagnoses import DIAGNOSES, diagnose

FIELD_SHARES: Mapping[str, tuple[float, ...]] = {
    "Pigment Network": (0.36, 0.34, 0.30),
    "Blue Whitish Veil": (0.60, 0.40),
    "Vascular Structures": (0.40, 0.10, 0.08, 0.09, 0.08, 0.08, 0.09, 0.08),
    "Pigmentation": (0.20, 0.20, 0.20, 0.20, 0.20),
    "Streaks": (0.40, 0.30, 0.30),
    "Dots and Globules": (0.34, 0.33, 0.33),
    "Regression Structures": (0.35, 0.20, 0.22, 0.23),
}
"""Share of each value of `DERM7PT_FIELDS`, in its order, among dermoscopic phantoms."""

FEATURE_COUNTS: Mapping[int, float] = {2: 0.15, 3: 0.25, 4: 0.25, 5: 0.2, 6: 0.15}
"""Share of clinical phantoms by how many features they are meant to show; a crowded picture may end up with fewer."""

_FITTING_ROUNDS = 40  # the shares are then right to about one in a thousand
_EAGERNESS: Mapping[str, float] = {
    **dict.fromkeys(COLOURED_FORMS, 3.0),
    **dict.fromkeys(("Brown(Hyperpigmentation)", "Salmon", "Yellow"), 8.0),
    "Macule": 1.5,
    "Purpura/Petechiae": 1.5,
}  # to join in, where not 1: it evens out how often each feature is shown
_MOST_SCATTERED = 2
_MOST_SURFACES = 3  # one for each sector of the form


def sample_morphology(diagnosis: str, rng: np.random.Generator) -> Morphology:
    """A random morphology to which the rules give `diagnosis`, a name in `DIAGNOSES`."""
    if DIAGNOSES[diagnosis].modality == "clinical":
        return _sample_features(diagnosis, rng)
    combinations, cumulative = _field_combinations()[diagnosis]
    return _from_values(combinations[int(np.searchsorted(cumulative, rng.uniform(), side="right"))])


@lru_cache(maxsize=1)
def _field_combinations() -> Mapping[str, tuple[list[tuple[str, ...]], npt.NDArray[np.float64]]]:
    """By diagnosis, every drawable combination of field values and its cumulative probability."""
    drawable = [c for c in itertools.product(*DERM7PT_FIELDS.values()) if _vessels_have_their_ground(c)]
    names = [diagnose(_from_values(combination)) for combination in drawable]
    margins = [
        (np.array([choices.index(combination[k]) for combination in drawable]), np.array(FIELD_SHARES[field]))
        for k, (field, choices) in enumerate(DERM7PT_FIELDS.items())
    ]
    order = sorted(set(names))
    margins.append((np.array([order.index(name) for name in names]), np.full(len(order), 1 / len(order))))
    probability = np.ones(len(drawable))
    for _ in range(_FITTING_ROUNDS):
        for codes, shares in margins:
            probability *= (shares / np.bincount(codes, probability, len(shares)))[codes]
    by_diagnosis = {}
    for name in order:
        members = [k for k, other in enumerate(names) if other == name]
        cumulative = np.cumsum(probability[members])
        by_diagnosis[name] = ([drawable[k] for k in members], cumulative / cumulative[-1])
    return by_diagnosis


def _from_values(values: tuple[str, ...]) -> Morphology:
    return Morphology("derm7pt", fields=dict(zip(DERM7PT_FIELDS, values, strict=True)))


def _vessels_have_their_ground(values: tuple[str, ...]) -> bool:
    """Vessels can't lie within a regression that isn't there."""
    return "within regression" not in values or values[list(DERM7PT_FIELDS).index("Regression Structures")] != "absent"


def _sample_features(diagnosis: str, rng: np.random.Generator) -> Morphology:
    cores = DIAGNOSES[diagnosis].cores
    shown = Morphology("skincon", features=cores[int(rng.integers(len(cores)))])
    wanted = int(rng.choice(list(FEATURE_COUNTS), p=list(FEATURE_COUNTS.values())))
    eagerness = np.array([_EAGERNESS.get(name, 1.0) for name in DRAWN_FEATURES])
    for index in np.argsort(rng.exponential(size=len(DRAWN_FEATURES)) / eagerness):
        if len(shown.features) >= wanted:
            break
        fuller = Morphology("skincon", features=shown.features | {DRAWN_FEATURES[index]})
        if is_drawable(fuller.features) and diagnose(fuller) == diagnosis:
            shown = fuller
    return shown


def is_drawable(features: frozenset[str]) -> bool:
    """Whether one picture can show all of `features` clearly."""
    return (
        features <= frozenset(DRAWN_FEATURES)
        and _count(features, FORMS) <= 1
        and _count(features, COLOURS) <= _count(features, COLOURED_FORMS)
        and _count(features, SCATTERED) <= _MOST_SCATTERED
        and _count(features, SURFACES) <= _MOST_SURFACES
    )


def _count(features: frozenset[str], group: Iterable[str]) -> int:
    return sum(name in features for name in group)
