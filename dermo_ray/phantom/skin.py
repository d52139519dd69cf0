"""Bare skin in the six Fitzpatrick types.

Invariant: the types differ in lightness by clear, monotone steps, and none is so dark that pigment can't be seen on it.
"""

import numpy as np

from dermo_ray.phantom.canvas import Canvas, Colour, rgb, smooth_noise

SKIN_TONES: tuple[Colour, ...] = tuple(
    rgb(code) for code in ("f6ddd0", "edc8ae", "dcae8a", "c08d66", "9a6a49", "75503c")
)
"""Colour of the skin types I to VI."""


def skin_colour(tone: int) -> Colour:
    """Colour of the Fitzpatrick type `tone`, 1 to 6."""
    return SKIN_TONES[tone - 1]


def bare_skin(rng: np.random.Generator, size: int, tone: int) -> Canvas:
    """Skin of the type `tone` with a little variation in colour and a fine grain."""
    base = np.asarray(skin_colour(tone), np.float32) * np.float32(rng.uniform(0.97, 1.03))
    canvas = Canvas(size, (float(base[0]), float(base[1]), float(base[2])))
    canvas.shade(1 + 0.02 * smooth_noise(rng, size, 5) + 0.02 * smooth_noise(rng, size, 32))
    return canvas
