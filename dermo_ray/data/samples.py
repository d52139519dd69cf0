"""What a source yields: one image with everything known about it.

Invariant: `Sample.morphology` is what the skin truly shows, as well as anybody knows; `Sample.annotation` is what an
annotator wrote down. They are one and the same except where a source simulates annotators (the phantoms). Rewards are
computed from the first, supervised targets are written from the second.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermo_ray.morphology import Modality, Morphology

Pixels = npt.NDArray[np.uint8]
"""A drawn image, RGB, [height, width, 3]."""


@dataclass(frozen=True)
class Entry:
    """One row of a source's listing: enough to find the image, cheap to make and to send to a worker.

    `facts` holds what the source needs to build the `Sample`; JSON values only.
    """

    id: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One image of one lesion and its reference."""

    id: str
    """Unique over all sources; begins with the source's name."""
    source: str
    group: str | None
    """The patient or lesion, unique over all sources; None where neither is known."""
    modality: Modality
    image: Path | Pixels
    """Where the image file is, or the pixels themselves where the source draws them."""
    raw_label: str | None = None
    """The diagnosis as the source writes it; None where it has none."""
    morphology: Morphology | None = None
    annotation: Morphology | None = None
    skin_tone: int | None = None
    """Fitzpatrick type, 1 to 6."""


class Reject(Exception):
    """A verdict, no failure: this sample can't be used. `reason` is a short name that the manifest counts by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


UNREADABLE = "unreadable_file"
"""The one reason that may have passed when the same entry is read again."""


@dataclass(frozen=True)
class StoredSample:
    """A sample whose image was checked and stored and whose label was looked up: what records are written from."""

    id: str
    source: str
    group: str
    """What decides its split: the patient or lesion, or where neither is known its cluster of near-duplicates."""
    modality: Modality
    image: str
    """Path of the stored image, relative to the prepared folder."""
    label: str | None
    """The canonical label; None where the source has none or the taxonomy does not know it."""
    morphology: Morphology | None
    annotation: Morphology | None
    skin_tone: int | None = None
    description: str | None = None
    """Free text about the morphology, by a teacher; None where nobody wrote one."""
    reasoning: str | None = None
    """Free text that leads to the diagnosis, by a teacher."""
    annotator: str | None = None
    """Who made what is machine-made, as JSON: model, version of its prompt, date, fields."""

    @property
    def annotated_by_machine(self) -> bool:
        """Whether the annotation is a concept model's draft or a teacher's answer."""
        return self.annotator is not None and "morphology" in json.loads(self.annotator)
