"""Views of an image that show the same skin, and the plan of which view is sampled with which seed.

Invariants: a view is a pure function of an RGB image, keeps its mode and its size (quarter turns swap the sides), and
leaves its argument alone; `identity` gives the very image back and comes first in every plan; equal settings and seeds
give equal plans, and a draw's seed does not depend on which other draws are planned.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, get_args

import numpy as np
from PIL import Image

from dermo_ray.config.cct import CCTConfig, ViewName
from dermo_ray.morphology import Modality

View = Callable[[Image.Image], Image.Image]

_LIGHT_CROP = 0.9  # of each side
_LARGE_CROP = 0.6
_MINKOWSKI_NORM = 6
_LIGHT_GRID = 64  # points a side at which the light is looked at
_BORDER = 0.12  # of each side
_DARK = 32  # of 255
_FITS = 6  # of reweighted least squares
_MOST_GAIN = np.float32(2.5)
_HUE_SHIFT = 18  # of 256 steps around the circle, 25 degrees


class Draw(NamedTuple):
    """One rollout to sample."""

    view: ViewName
    sample: int
    """Its number among the samples of the view, from 0."""
    temperature: float
    seed: int
    """The engine's sampling seed, 0 to 2^32 - 1."""


def plan(config: CCTConfig, modality: Modality, seed: int) -> list[Draw]:
    """The rollouts of one question, in the order in which they are sampled: every view once, then every view again.

    `seed` is at least 0; give every question its own, such as a hash of its id.
    """
    views: tuple[ViewName, ...] = getattr(config.views, modality)
    temperatures = [config.temperature] * config.samples_per_view
    if config.greedy_first:
        temperatures[0] = 0.0
    return [
        Draw(view, sample, temperature, _sampling_seed(seed, view, sample))
        for sample, temperature in enumerate(temperatures)
        for view in views
    ]


def colour_constancy(image: Image.Image) -> Image.Image:
    """The image as under white light: each channel is scaled so that the estimated light becomes grey.

    Shades of grey (Finlayson and Trezzi, CIC 2004): the light is the Minkowski mean of each channel, norm 6. An image
    with an empty channel tells nothing about the light and is given back.
    """
    counts = np.asarray(image.histogram(), np.float64).reshape(3, 256)
    levels = np.arange(256)
    light = (counts @ (levels / 255) ** _MINKOWSKI_NORM / counts.sum(axis=1)) ** (1 / _MINKOWSKI_NORM)
    if not light.all():
        return image
    gains = np.linalg.norm(light) / np.sqrt(3) / light
    table = np.clip(np.rint(gains[:, None] * levels), 0, 255).astype(int)
    return image.point(table.ravel().tolist())


def even_light(image: Image.Image) -> Image.Image:
    """The image as under even light: brightness is divided by the slope of the light across it.

    The light is the plane that fits the brightness (the largest channel) along the border, where skin is, with the
    least absolute error, so that a lesion or hairs that reach the border count for little. The middle stays as bright
    as it was. A border that is all but black, as a round field of view leaves it, tells nothing, and the image is
    given back. After Cavalcanti, Scharcanski and Lopes (ISVC 2010), who fit a quadratic function to the corners.
    """
    x, y = np.meshgrid(*[np.linspace(-0.5, 0.5, _LIGHT_GRID)] * 2)
    border = np.maximum(abs(x), abs(y)) > 0.5 - _BORDER
    small = image.resize((_LIGHT_GRID, _LIGHT_GRID), Image.Resampling.BOX)
    brightness = np.asarray(small, np.float64).max(axis=2)[border]
    terms = np.stack([np.ones_like(x), x, y], axis=-1)[border]
    weights = np.ones_like(brightness)
    for _ in range(_FITS):
        light = np.linalg.lstsq(terms * weights[:, None], brightness * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(abs(terms @ light - brightness), 1))
    level, rightwards, downwards = light.astype(np.float32)
    if level < _DARK:
        return image
    width, height = image.size
    across = rightwards * np.linspace(-0.5, 0.5, width, dtype=np.float32)
    along = downwards * np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    gains = np.clip(level / np.maximum(level + across + along, 1), 1 / _MOST_GAIN, _MOST_GAIN)
    return Image.fromarray(np.clip(np.rint(np.asarray(image) * gains[..., None]), 0, 255).astype(np.uint8))


def _hue_shift(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + _HUE_SHIFT) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert(image.mode)


def _middle(share: float) -> View:
    """The middle of the image, `share` of each side, enlarged to the whole size."""

    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        x, y = width * (1 - share) / 2, height * (1 - share) / 2
        return image.resize(image.size, Image.Resampling.BICUBIC, box=(x, y, width - x, height - y))

    return crop


def _transposed(method: Image.Transpose) -> View:
    return lambda image: image.transpose(method)


def _evened(view: View) -> View:
    return lambda image: view(even_light(image))


VIEWS: Mapping[ViewName, View] = {
    "identity": lambda image: image,
    "flip_horizontal": _transposed(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip_vertical": _transposed(Image.Transpose.FLIP_TOP_BOTTOM),
    "quarter_turn_left": _transposed(Image.Transpose.ROTATE_90),
    "quarter_turn_right": _transposed(Image.Transpose.ROTATE_270),
    "half_turn": _transposed(Image.Transpose.ROTATE_180),
    "light_crop": _middle(_LIGHT_CROP),
    "colour_constancy": colour_constancy,
    "large_crop": _middle(_LARGE_CROP),
    "hue_shift": _hue_shift,
    "even_light": even_light,
    "even_light_flip_horizontal": _evened(_transposed(Image.Transpose.FLIP_LEFT_RIGHT)),
    "even_light_quarter_turn_left": _evened(_transposed(Image.Transpose.ROTATE_90)),
    "even_light_half_turn": _evened(_transposed(Image.Transpose.ROTATE_180)),
}
"""Every view by its name."""


def _sampling_seed(seed: int, view: ViewName, sample: int) -> int:
    number = get_args(ViewName).index(view)
    return int(np.random.SeedSequence([seed, number, sample]).generate_state(1)[0])
