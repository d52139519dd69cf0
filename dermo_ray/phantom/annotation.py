"""How a careless annotator writes down a phantom's morphology.

The errors have a direction: severe findings get the name of a milder neighbour and present features are overlooked.
A model fine-tuned on such labels inherits the bias, and a reward that knows the truth can then be seen to remove it.
Invariant: the result is a complete morphology of the same schema; with no noise it equals the input.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.phantom.settings import AnnotationNoise

MILDER: Mapping[str, Mapping[str, str]] = {
    "Pigment Network": {"atypical": "typical"},
    "Blue Whitish Veil": {"present": "absent"},
    "Vascular Structures": {"linear irregular": "comma", "within regression": "absent"},
    "Pigmentation": {"diffuse irregular": "diffuse regular", "localized irregular": "localized regular"},
    "Streaks": {"irregular": "regular"},
    "Dots and Globules": {"irregular": "regular"},
    "Regression Structures": {"combinations": "white areas", "blue areas": "absent"},
}
"""Severe Derm7pt values, by field, and what attenuation writes in their place."""


def annotate(morphology: Morphology, noise: AnnotationNoise, rng: np.random.Generator) -> Morphology:
    """What an annotator with `noise` writes about a lesion that shows `morphology`."""
    if morphology.schema == "derm7pt":
        return replace(morphology, fields=_annotate_fields(morphology.fields, noise, rng))
    return replace(morphology, features=_annotate_features(morphology.features, noise, rng))


def _annotate_fields(fields: Mapping[str, str], noise: AnnotationNoise, rng: np.random.Generator) -> dict[str, str]:
    written = {}
    for name, value in fields.items():
        attenuate, randomise = rng.uniform(size=2) < (noise.attenuation, noise.random)
        choice = DERM7PT_FIELDS[name][int(rng.integers(len(DERM7PT_FIELDS[name])))]
        milder = MILDER[name].get(value, value) if attenuate else value
        written[name] = choice if randomise else milder
    return written


def _annotate_features(features: frozenset[str], noise: AnnotationNoise, rng: np.random.Generator) -> frozenset[str]:
    written = set()
    for name in sorted(features):  # a set's own order differs from process to process
        omit, randomise = rng.uniform(size=2) < (noise.omission, noise.random)
        choice = SKINCON_FEATURES[int(rng.integers(len(SKINCON_FEATURES)))]
        if randomise:
            written.add(choice)
        elif not omit:
            written.add(name)
    return frozenset(written)
