"""The gates of the MAVIC reward: which terms count how much, given the others."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rewards.terms import Case


class Gate(NamedTuple):
    """A multiplier in [0, 1] and the names of the terms it acts on."""

    multiplier: float
    terms: frozenset[str]


def anchor(case: Case, terms: Mapping[str, float]) -> Gate:
    """A diagnosis counts as far as the morphology behind it is right: min(1, m / tau).

    Consistency stands in for morphology where the image has no annotation; with neither the gate is open.
    """
    anchored = terms.get("morphology", terms.get("consistency", 1.0))
    return Gate(min(1.0, anchored / case.config.tau), frozenset({"diagnosis", "taxonomy"}))


def schema(case: Case, terms: Mapping[str, float]) -> Gate:
    """Morphology and consistency count only where the JSON is valid and its schema that of the modality."""
    return Gate(float(case.schema_is_right), frozenset({"morphology", "consistency"}))


def none(case: Case, terms: Mapping[str, float]) -> Gate:
    """Every term counts fully."""
    return Gate(1.0, frozenset())


GATES: Mapping[str, Callable[[Case, Mapping[str, float]], Gate]] = MappingProxyType(
    {"anchor": anchor, "schema": schema, "none": none}
)
