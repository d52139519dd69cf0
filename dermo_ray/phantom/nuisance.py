"""What gets between the camera and the skin: hair, vignette, gel bubbles, lighting, blur.

Invariant: an amplitude of 0 leaves the picture as it is, and each nuisance has its own random stream, so that
switching one on or off changes nothing else.
"""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

from dermo_ray.morphology import Modality
from dermo_ray.phantom.canvas import Canvas, Strokes, distance, grid, rgb, winding
from dermo_ray.phantom.settings import NuisanceSettings

_LEAST_AMPLITUDE = 0.3  # of the settings' strength, where a nuisance occurs


def draw_amplitudes(settings: NuisanceSettings, modality: Modality, rng: np.random.Generator) -> dict[str, float]:
    """How strong each nuisance is in one image, in [0, 1]; 0 where it does not occur."""
    amplitudes = {}
    for name in NUISANCES:
        occurs = rng.uniform() < getattr(settings, name)
        amplitude = settings.strength * rng.uniform(_LEAST_AMPLITUDE, 1)
        possible = modality == "dermoscopic" or name not in DERMOSCOPIC_ONLY
        amplitudes[name] = amplitude if occurs and possible else 0.0
    return amplitudes


def disturb(canvas: Canvas, amplitudes: Mapping[str, float], seed: np.random.SeedSequence) -> None:
    """Apply the nuisances to `canvas`, in place."""
    streams = seed.spawn(len(NUISANCES))
    for (name, nuisance), stream in zip(NUISANCES.items(), streams, strict=True):
        if amplitudes[name] > 0:
            nuisance(canvas, amplitudes[name], np.random.default_rng(stream))


def _gel_bubbles(canvas: Canvas, amplitude: float, rng: np.random.Generator) -> None:
    rims, glints = Strokes(canvas.size), Strokes(canvas.size)
    for _ in range(1 + round(5 * amplitude)):
        x, y = rng.uniform(0.05, 0.95, 2)
        radius = rng.uniform(0.02, 0.06)
        rims.disc((x, y), radius)
        rims.disc((x, y), radius - 0.011, level=0.15)
        glints.disc((x - radius / 2, y - radius / 2), 0.01)
    canvas.paint(rgb("ffffff"), 0.8 * rims.mask())
    canvas.paint(rgb("ffffff"), glints.mask())


def _hair(canvas: Canvas, amplitude: float, rng: np.random.Generator) -> None:
    hairs = Strokes(canvas.size)
    slant = rng.uniform(0, 2 * np.pi)
    for _ in range(1 + round(7 * amplitude)):
        start = (rng.uniform(-0.1, 0.9), rng.uniform(-0.1, 0.9))
        hairs.line(winding(rng, start, slant + rng.normal(0, 0.3), rng.uniform(0.5, 1.1), 0.15, 8), 0.009)
    canvas.paint(rgb("2a1d16"), 0.85 * hairs.mask())


def _lighting(canvas: Canvas, amplitude: float, rng: np.random.Generator) -> None:
    x, y = grid(canvas.size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x - 0.5) * np.float32(np.cos(angle)) + (y - 0.5) * np.float32(np.sin(angle))
    canvas.shade(np.float32(1 + 0.2 * amplitude * rng.uniform(-1, 1)) + np.float32(0.5 * amplitude) * slope)
    canvas.pixels *= (1 + 0.1 * amplitude * rng.uniform(-1, 1, 3)).astype(np.float32)


def _vignette(canvas: Canvas, amplitude: float, rng: np.random.Generator) -> None:
    radius = distance(canvas.size, (0.5, 0.5))
    onset = rng.uniform(0.5, 0.56)
    canvas.shade(1 - np.float32(amplitude) * np.clip((radius - np.float32(onset)) / np.float32(0.12), 0, 1))


def _blur(canvas: Canvas, amplitude: float, rng: np.random.Generator) -> None:
    image = Image.fromarray(canvas.as_image()).filter(ImageFilter.GaussianBlur(0.012 * amplitude * canvas.size))
    canvas.pixels = np.asarray(image, np.float32) / np.float32(255)


NUISANCES: Mapping[str, Callable[[Canvas, float, np.random.Generator], None]] = {
    "gel_bubbles": _gel_bubbles,
    "hair": _hair,
    "lighting": _lighting,
    "vignette": _vignette,
    "blur": _blur,
}
"""Every nuisance, in the order in which light meets it."""

DERMOSCOPIC_ONLY = ("gel_bubbles", "vignette")
