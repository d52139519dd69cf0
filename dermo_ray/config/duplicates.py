"""Settings of the search for near-duplicate images."""

from typing import Literal

from pydantic import Field

from dermo_ray.config.base import Settings


class DuplicateSettings(Settings):
    """Which images count as the same picture, and what becomes of them."""

    distance: int | None = Field(default=2, ge=0, le=8)
    """Images whose 64-bit perceptual hashes differ in at most this many bits count as one picture; with null only those
    whose stored files are equal do: their copies all stay, in one split, but none of a benchmark's."""
    keep: Literal["one", "all"] = "one"
    """one: of each picture's copies only one stays; all: they all stay, in one split."""
