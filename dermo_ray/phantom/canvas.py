"""Drawing primitives on a square float image: blobs, strokes, smooth noise, paint.

All coordinates are fractions of the image's side, x to the right and y downwards, so that a phantom looks the same at
every size. A mask is a float32 array [size, size] in [0, 1].
Invariant: nothing here keeps state between phantoms, and random numbers come only from the generator handed in.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

FloatArray = npt.NDArray[np.float32]
Point = tuple[float, float]
Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""

_SUPERSAMPLING = 3  # strokes are drawn this much larger, then averaged down: PIL's own lines have jagged edges


def rgb(code: str) -> Colour:
    """A colour from its six hexadecimal digits."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[FloatArray, FloatArray]:
    """The x and y coordinates of every pixel centre, each [size, size]; read-only."""
    centres = (np.arange(size) + 0.5) / size
    x, y = (axis.astype(np.float32) for axis in np.meshgrid(centres, centres))
    x.flags.writeable = y.flags.writeable = False
    return x, y


class Canvas:
    """A float32 image [size, size, 3] in [0, 1] that is painted in place."""

    def __init__(self, size: int, colour: Colour) -> None:
        self.size = size
        self.pixels: FloatArray = np.empty((size, size, 3), np.float32)
        self.pixels[:] = colour

    def paint(self, colour: Colour | FloatArray, mask: FloatArray) -> None:
        """Blend `colour` (one, or one per pixel) over the image where `mask` is set."""
        self.pixels += mask[..., None] * (np.asarray(colour, np.float32) - self.pixels)

    def shade(self, factor: FloatArray) -> None:
        """Multiply the brightness of every pixel by `factor` [size, size]."""
        self.pixels *= factor[..., None]

    def as_image(self) -> npt.NDArray[np.uint8]:
        """The image as uint8 [size, size, 3]."""
        return (np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


class Strokes:
    """An anti-aliased mask made of lines, discs and polygons in image fractions."""

    def __init__(self, size: int) -> None:
        self._scale = size * _SUPERSAMPLING
        self._image = Image.new("L", (self._scale, self._scale))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], width: float) -> None:
        """A line through `points` with round ends."""
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        self._draw.line(scaled, fill=255, width=max(1, round(width * self._scale)), joint="curve")
        for end in (points[0], points[-1]):
            self.disc(end, width / 2)

    def disc(self, centre: Point, radius: float, level: float = 1.0) -> None:
        """A disc; `level` 0 cuts it out of what is already there."""
        x, y, r = (value * self._scale for value in (*centre, radius))
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=round(255 * level))

    def polygon(self, points: Sequence[Point], level: float = 1.0) -> None:
        """A filled polygon; `level` as for `disc`."""
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], fill=round(255 * level))

    def mask(self) -> FloatArray:
        """What was drawn so far, as a mask."""
        return np.asarray(self._image.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Random values [size, size] within about [-1, 1] that vary over a distance of 1 / `cells`."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float32)


def distance(size: int, centre: Point) -> FloatArray:
    """Distance of every pixel from `centre`, [size, size]."""
    x, y = grid(size)
    squared: FloatArray = (x - np.float32(centre[0])) ** 2 + (y - np.float32(centre[1])) ** 2
    return np.sqrt(squared)


def ramp(values: FloatArray, start: float, stop: float) -> FloatArray:
    """0 where `values` <= `start`, 1 where they are >= `stop`, linear between; `start` may be the larger one."""
    return np.clip((values - np.float32(start)) / np.float32(stop - start), 0, 1)


class Blob:
    """A wobbly disc: `depth` [size, size] is 1 at its centre, 0 on its outline and negative outside."""

    def __init__(self, rng: np.random.Generator, size: int, centre: Point, radius: float, wobble: float = 0.08) -> None:
        x, y = grid(size)
        dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
        angle = np.arctan2(dy, dx)
        outline = np.ones_like(angle)
        for order in (2, 3, 5):
            outline += np.float32(wobble * rng.uniform(0.3, 1) * 2 / order) * np.cos(
                order * angle + np.float32(rng.uniform(0, 2 * np.pi))
            )
        self.centre, self.radius, self.size = centre, radius, size
        self.depth: FloatArray = 1 - np.hypot(dx, dy) / (np.float32(radius) * outline)

    def mask(self, softness: float = 0.02) -> FloatArray:
        """The blob with an edge that fades over `softness` (a fraction of the image, at least a pixel)."""
        half = max(softness, 1 / self.size) / self.radius / 2
        return ramp(self.depth, -half, half)

    def towards_light(self) -> FloatArray:
        """How far every pixel lies to the upper left of the centre, where the light comes from, in radii."""
        x, y = grid(self.size)
        return (np.float32(sum(self.centre)) - x - y) / np.float32(self.radius * np.sqrt(2))


def polar(centre: Point, radius: float, angle: float) -> Point:
    """The point at `radius` and `angle` (radians) from `centre`."""
    return centre[0] + radius * float(np.cos(angle)), centre[1] + radius * float(np.sin(angle))


def sunflower(centre: Point, radius: float, count: int, turn: float) -> list[Point]:
    """`count` points spread evenly over a disc, as the seeds of a sunflower are (Vogel's spiral)."""
    golden_angle = np.pi * (3 - np.sqrt(5))
    return [polar(centre, radius * np.sqrt((k + 0.5) / count), turn + k * golden_angle) for k in range(count)]


def winding(
    rng: np.random.Generator, start: Point, angle: float, length: float, bend: float, steps: int = 6
) -> list[Point]:
    """A path of `length` from `start` whose direction wanders by up to `bend` radians a step."""
    points = [start]
    for turn in rng.uniform(-bend, bend, steps):
        angle += float(turn)
        points.append(polar(points[-1], length / steps, angle))
    return points
