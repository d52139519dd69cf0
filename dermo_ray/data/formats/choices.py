"""Multiple choice: about one attribute of the morphology, and about the diagnosis among 4 or 25.

Invariants: options are distinct and lettered from A; the right one is among them once, at every place equally often;
the answer is its whole line, "C) Basal Cell Carcinoma".
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from random import Random
from string import ascii_uppercase
from types import MappingProxyType
from typing import Literal

from dermo_ray.data.formats.context import FormatContext, randomness, record
from dermo_ray.data.samples import StoredSample
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES
from dermo_ray.prompts.stems import ask
from dermo_ray.records import Format, Trajectory
from dermo_ray.taxonomy import Taxonomy

FIELD_CODES: Mapping[str, str] = MappingProxyType(
    {
        "Pigment Network": "pn",
        "Blue Whitish Veil": "bwv",
        "Vascular Structures": "vs",
        "Pigmentation": "pig",
        "Streaks": "str",
        "Dots and Globules": "dag",
        "Regression Structures": "rs",
    }
)
"""The short names of the Derm7pt fields in the ids of records."""

_SKINCON_OPTIONS = 4


def attribute_choice(sample: StoredSample, context: FormatContext) -> list[Trajectory]:
    """One question for each Derm7pt field, or for some of the SkinCon features that are present."""
    if sample.annotation is None:
        return []
    draw = randomness(sample, "attribute_choice", context)
    if sample.annotation.schema == "derm7pt":
        return [_field_choice(sample, name, value, draw, context) for name, value in sample.annotation.fields.items()]
    present = sorted(sample.annotation.features)
    absent = sorted(set(SKINCON_FEATURES) - sample.annotation.features)
    if len(absent) < _SKINCON_OPTIONS - 1:
        return []
    asked = draw.sample(present, min(context.features_per_image, len(present)))
    return [_feature_choice(sample, feature, absent, draw, context) for feature in sorted(asked)]


def diagnosis_choice(sample: StoredSample, context: FormatContext, options: Literal[4, 25]) -> list[Trajectory]:
    """One question among `options` labels of the corpus; none where the corpus has fewer.

    Wrong options are the labels nearest to the right one in the taxonomy: its siblings, then its cousins, then others,
    drawn at random among equally near ones. None covers the right one or is covered by it: that would be right, too.
    """
    if sample.label is None:
        return []
    name: Format = "diagnosis_choice_4" if options == 4 else "diagnosis_choice_25"
    draw = randomness(sample, name, context)
    wrong: list[str] = []
    for ring in _rings(sample.label, context.labels, context.taxonomy):
        wrong += draw.sample(ring, min(len(ring), options - 1 - len(wrong)))
    if len(wrong) < options - 1:
        return []
    stem = ask("diagnosis_choice", context.style, sample.modality, draw)
    return [record(sample, name, [_choice(stem, sample.label, wrong, draw)])]


def _field_choice(sample: StoredSample, field: str, value: str, draw: Random, context: FormatContext) -> Trajectory:
    stem = ask("derm7pt_choice", context.style, sample.modality, draw, field=field.lower())
    exchange = _choice(stem, value, [other for other in DERM7PT_FIELDS[field] if other != value], draw)
    return record(sample, "attribute_choice", [exchange], about=FIELD_CODES[field], drawn_from=["morphology"])


def _feature_choice(
    sample: StoredSample, feature: str, absent: Sequence[str], draw: Random, context: FormatContext
) -> Trajectory:
    stem = ask("skincon_choice", context.style, sample.modality, draw)
    exchange = _choice(stem, feature, draw.sample(absent, _SKINCON_OPTIONS - 1), draw)
    about = re.sub(r"[^a-z]+", "_", feature.lower()).strip("_")
    return record(sample, "attribute_choice", [exchange], about=about, drawn_from=["morphology"])


def _choice(stem: str, right: str, wrong: Sequence[str], draw: Random) -> tuple[str, str]:
    """The question with its lettered options, and the answer."""
    options = [right, *wrong]
    draw.shuffle(options)
    lines = [f"{letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([stem, *lines]), lines[options.index(right)]


@lru_cache(maxsize=4096)
def _rings(label: str, labels: tuple[str, ...], taxonomy: Taxonomy) -> tuple[tuple[str, ...], ...]:
    """The diagnoses among `labels` other than `label`, in groups of equal closeness to it, the nearest first."""
    right = taxonomy.canonical(label)
    others = {taxonomy.canonical(other) for other in labels} - {right, None}
    closeness = {
        other: taxonomy.similarity(label, other)
        for other in others
        if other is not None and not taxonomy.overlap(label, other)
    }
    ordered = sorted(closeness, key=lambda other: (-closeness[other], other))
    return tuple(tuple(ring) for _, ring in groupby(ordered, key=closeness.__getitem__))
