"""Train, validation and test by group.

Invariant: the split of a group depends on the seed and the group's name alone, so it does not move when images or
sources are added, and one lesion or patient is never on two sides.
"""

import hashlib

from dermo_ray.config.prepare import SplitSettings
from dermo_ray.records import Split


def split_of(group: str, settings: SplitSettings, seed: int) -> Split:
    """The split that `group` belongs to."""
    place = uniform(f"{seed}/{group}")
    if place < settings.val:
        return "val"
    return "test" if place < settings.val + settings.test else "train"


def uniform(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
