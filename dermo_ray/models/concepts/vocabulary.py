"""Morphologies as vectors: which concept stands where in the heads of the concept model.

SkinCon gives one place to each feature, Derm7pt one to each value of each field. Invariant: the order is that of
`dermo_ray.morphology`, so a saved head can be read without the program that trained it.
"""

from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import get_args

import numpy as np
import numpy.typing as npt

from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology, Schema

SCHEMAS: tuple[Schema, ...] = get_args(Schema)

CONCEPTS: Mapping[Schema, tuple[str, ...]] = MappingProxyType(
    {
        "skincon": SKINCON_FEATURES,
        "derm7pt": tuple(f"{field}: {value}" for field, values in DERM7PT_FIELDS.items() for value in values),
    }
)
"""The name of every place: 48 features, or 28 values of fields."""

_ENDS = tuple(accumulate(map(len, DERM7PT_FIELDS.values())))

FIELD_SLICES: Mapping[str, slice] = MappingProxyType(
    {field: slice(end - len(values), end) for (field, values), end in zip(DERM7PT_FIELDS.items(), _ENDS, strict=True)}
)
"""Where the values of each Derm7pt field stand."""

_PLACES = {schema: {name: place for place, name in enumerate(names)} for schema, names in CONCEPTS.items()}


def likeliest(schema: Schema, probabilities: npt.NDArray[np.float64]) -> Morphology:
    """The likeliest value of each Derm7pt field [28], or the SkinCon features more likely there than not [48]."""
    if schema == "skincon":
        present = (name for name, p in zip(SKINCON_FEATURES, probabilities, strict=True) if p > 0.5)
        return Morphology("skincon", features=frozenset(present))
    fields = {
        field: values[int(probabilities[FIELD_SLICES[field]].argmax())] for field, values in DERM7PT_FIELDS.items()
    }
    return Morphology("derm7pt", fields=fields)


def vector(morphology: Morphology) -> npt.NDArray[np.float32]:
    """1 at each place that is stated, 0 elsewhere; [48] or [28]. A Derm7pt field that is missing has no 1."""
    places = _PLACES[morphology.schema]
    if morphology.schema == "skincon":
        stated = [places[name] for name in morphology.features]
    else:
        stated = [places[f"{field}: {value}"] for field, value in morphology.fields.items()]
    result = np.zeros(len(places), dtype=np.float32)
    result[stated] = 1.0
    return result
