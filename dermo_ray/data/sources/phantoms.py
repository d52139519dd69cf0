"""Phantoms: procedurally drawn lesions, drawn where they are needed.

Invariant: phantom number i of a seed is the same picture with the same annotation wherever and whenever it is drawn,
and two seeds or aliases share no phantom.
"""

import zlib

import numpy as np

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry, Sample
from dermo_ray.phantom import annotate, draw

_MOST_PHANTOMS = 10_000_000
"""How far apart the drawing seeds of two populations lie."""
_MOST_SEEDS = 1_000_000
"""How far apart those of two aliases lie."""


class Phantoms:
    """`count` phantoms; each is its own group."""

    licence = "phantoms: drawn by DermoRay, no patient data; free of restrictions"

    def __init__(self, config: SourceConfig, seed: int) -> None:
        self._config = config
        population = 0 if config.alias is None else zlib.crc32(config.alias.encode())  # a mixture may have several
        self._first = (population * _MOST_SEEDS + seed) * _MOST_PHANTOMS

    def entries(self) -> list[Entry]:
        """One entry a phantom; nothing is drawn yet."""
        return [Entry(f"{self._config.title}_{i:07d}", {"seed": self._first + i}) for i in range(self._config.count)]

    def sample(self, entry: Entry) -> Sample:
        """The drawn phantom: `morphology` is exact, `annotation` is what a simulated annotator wrote about it."""
        seed = entry.facts["seed"]
        phantom = draw(seed, self._config.phantom)
        annotator = np.random.default_rng([seed, 1])  # a stream of its own: noise settings leave the picture alone
        return Sample(
            id=entry.id,
            source=self._config.title,
            group=entry.id,
            modality=phantom.modality,
            image=phantom.image,
            raw_label=phantom.diagnosis,
            morphology=phantom.morphology,
            annotation=annotate(phantom.morphology, self._config.noise, annotator),
            skin_tone=phantom.skin_tone,
        )
