"""Draws a dermoscopic lesion from its seven Derm7pt fields.

Each field owns a colour, a shape or a place, so that every value can be told apart with all others present:
pigmentation is the lesion's brown, the network a mesh, dots and globules dark discs, streaks spikes beyond the border,
regression white or slate areas, the veil a bright blue haze, and vessels are the only red.
Invariant: an area that two fields would contest (network under regression, say) is shared out by angle around the
lesion's centre, never by hiding one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dermo_ray.phantom.canvas import (
    Blob,
    Canvas,
    Colour,
    FloatArray,
    Point,
    Strokes,
    grid,
    polar,
    ramp,
    rgb,
    smooth_noise,
    sunflower,
    winding,
)
from dermo_ray.phantom.skin import bare_skin, skin_colour

_PALE = rgb("d9a08c")
_BROWN = rgb("8e542c")
_DARK_BROWN = rgb("4e2a16")
_BLACK = rgb("231510")
_TAN = rgb("dca45a")
_HALO = rgb("f4d8a8")
_VEIL = rgb("8fb0f2")
_SCAR = rgb("fbf3ee")
_SLATE = rgb("5f7389")
_PEPPER = rgb("2c3f57")
_RED = rgb("d01030")
_FLUSH = rgb("f3b3a8")


@dataclass
class _Scene:
    """The lesion under construction. `turn` orients everything that is not symmetric; lengths are in lesion radii."""

    rng: np.random.Generator
    canvas: Canvas
    body: Blob
    turn: float
    clear: FloatArray
    """1 where the network may be drawn, less where another structure took its place."""

    @property
    def size(self) -> int:
        return self.canvas.size

    def at(self, radius: float, angle: float) -> Point:
        return polar(self.body.centre, radius * self.body.radius, self.turn + angle)

    def blob(self, radius: float, angle: float, extent: float, wobble: float = 0.12) -> Blob:
        return Blob(self.rng, self.size, self.at(radius, angle), extent * self.body.radius, wobble)

    def length(self, radii: float) -> float:
        return radii * self.body.radius


def draw_dermoscopic(fields: Mapping[str, str], tone: int, rng: np.random.Generator, size: int) -> Canvas:
    """A lesion with the seven Derm7pt `fields` on skin of the type `tone`, without nuisances."""
    canvas = bare_skin(rng, size, tone)
    centre = (0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03))
    body = Blob(rng, size, centre, 0.33 * rng.uniform(0.94, 1.06), 0.05)
    scene = _Scene(rng, canvas, body, rng.uniform(0, 2 * np.pi), np.ones((size, size), np.float32))
    pale = tuple(0.7 * p + 0.3 * s for p, s in zip(_PALE, skin_colour(tone), strict=True))
    canvas.paint((pale[0], pale[1], pale[2]), body.mask(0.03))
    for field, drawers in _DRAWERS.items():  # in painting order: ground first, vessels last
        if fields[field] in drawers:
            drawers[fields[field]](scene)
    return canvas


def _diffuse_regular(scene: _Scene) -> None:
    scene.canvas.paint(_BROWN, 0.95 * scene.body.mask(0.03))


def _diffuse_irregular(scene: _Scene) -> None:
    scene.canvas.paint(_TAN, 0.95 * scene.body.mask(0.03))
    _blotches(scene, scene.body.mask(0.02))


def _localized_regular(scene: _Scene) -> None:
    scene.canvas.paint(_BROWN, scene.body.mask() * scene.blob(0.42, 0, 0.56, 0.02).mask(0.02))


def _localized_irregular(scene: _Scene) -> None:
    area = scene.blob(0.42, 0, 0.58, 0.25).mask(0.02) * scene.body.mask()
    scene.canvas.paint(_TAN, area)
    _blotches(scene, area)


def _blotches(scene: _Scene, area: FloatArray) -> None:
    tones = smooth_noise(scene.rng, scene.size, 11)
    scene.canvas.paint(_BROWN, area * ramp(tones, -0.25, -0.2))
    scene.canvas.paint(_DARK_BROWN, area * ramp(tones, 0.0, 0.05))


def _white_areas(scene: _Scene) -> None:
    _regress(scene, _SCAR, scene.blob(0.55, np.pi, 0.47).mask(0.03))


def _blue_areas(scene: _Scene) -> None:
    _peppered(scene, scene.blob(0.55, np.pi, 0.47))


def _both_areas(scene: _Scene) -> None:
    _regress(scene, _SCAR, scene.blob(0.62, np.pi + 0.62, 0.4).mask(0.03))
    _peppered(scene, scene.blob(0.62, np.pi - 0.62, 0.4))


def _regress(scene: _Scene, colour: Colour, area: FloatArray) -> None:
    area = area * scene.body.mask()
    scene.canvas.paint(colour, area)
    scene.clear *= 1 - area


def _peppered(scene: _Scene, blob: Blob) -> None:
    _regress(scene, _SLATE, blob.mask(0.03))
    grains = Strokes(scene.size)
    for _ in range(16):
        place = polar(blob.centre, blob.radius * np.sqrt(scene.rng.uniform(0, 0.7)), scene.rng.uniform(0, 2 * np.pi))
        grains.disc(place, 0.012)
    scene.canvas.paint(_PEPPER, grains.mask() * scene.body.mask())


def _veil(scene: _Scene) -> None:
    haze = scene.blob(0.32, -np.pi / 2, 0.62).mask(0.08) * scene.body.mask()
    haze *= 0.82 + 0.12 * smooth_noise(scene.rng, scene.size, 8)
    scene.canvas.paint(_VEIL, haze)
    scene.clear *= 1 - 0.5 * haze


def _typical_network(scene: _Scene) -> None:
    mesh = _mesh(scene, spacing=0.085, warp=0.004, threshold=-0.45)
    scene.canvas.paint(_DARK_BROWN, 0.75 * mesh * scene.body.mask() * scene.clear)


def _atypical_network(scene: _Scene) -> None:
    mesh = _mesh(scene, spacing=0.14, warp=0.03, threshold=-0.35)
    broken = ramp(smooth_noise(scene.rng, scene.size, 9), -0.4, -0.25)
    scene.canvas.paint(_BLACK, 0.95 * mesh * broken * scene.body.mask() * scene.clear)


def _mesh(scene: _Scene, spacing: float, warp: float, threshold: float) -> FloatArray:
    """A honeycomb: the dark lines lie where three plane waves at 60 degrees cancel."""
    x, y = grid(scene.size)
    x = x + np.float32(warp) * smooth_noise(scene.rng, scene.size, 6)
    y = y + np.float32(warp) * smooth_noise(scene.rng, scene.size, 6)
    waves = np.zeros_like(x)
    for k in range(3):
        angle = scene.turn + k * np.pi / 3 * 2
        phase = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        waves += np.cos(phase * np.float32(4 * np.pi / np.sqrt(3) / spacing))
    return ramp(waves, threshold + 0.25, threshold - 0.25)


def _regular_globules(scene: _Scene) -> None:
    marks = [(scene.at(0.66, k * np.pi / 5), scene.length(0.085)) for k in range(10)]
    _globules(scene, [*marks, *((scene.at(0.3, k * np.pi / 2), scene.length(0.085)) for k in range(4))])


def _irregular_globules(scene: _Scene) -> None:
    rng = scene.rng
    radii = (0.17, 0.15, 0.12, 0.1, 0.08, 0.06, 0.06, 0.06, 0.05)
    _globules(
        scene,
        [(scene.at(rng.uniform(0.25, 0.85), np.pi / 2 + rng.uniform(-0.75, 0.75)), scene.length(r)) for r in radii],
    )


def _globules(scene: _Scene, marks: list[tuple[Point, float]]) -> None:
    halo, core = Strokes(scene.size), Strokes(scene.size)
    for place, radius in marks:
        halo.disc(place, radius + 0.017)
        core.disc(place, radius)
    scene.canvas.paint(_HALO, 0.9 * halo.mask())
    scene.canvas.paint(_BLACK, core.mask())


def _regular_streaks(scene: _Scene) -> None:
    _streaks(scene, [(k * np.pi / 10, 0.24, 0.06) for k in range(20)])


def _irregular_streaks(scene: _Scene) -> None:
    rng = scene.rng
    start = rng.uniform(0, 2 * np.pi)
    _streaks(scene, [(start + rng.uniform(0, 1.9), rng.uniform(0.1, 0.42), rng.uniform(0.05, 0.14)) for _ in range(10)])


def _streaks(scene: _Scene, rays: list[tuple[float, float, float]]) -> None:
    strokes = Strokes(scene.size)
    for angle, reach, width in rays:
        strokes.line([scene.at(0.88, angle), scene.at(1 + reach, angle)], scene.length(width))
    scene.canvas.paint(_BLACK, 0.95 * strokes.mask())


def _vessels(scene: _Scene, paths: list[tuple[list[Point], float]]) -> None:
    """Red lines of the given widths, with a pale rim that keeps them apart from dark pigment."""
    rim, core = Strokes(scene.size), Strokes(scene.size)
    for points, width in paths:
        rim.line(points, width + 0.022)
        core.line(points, width)
    scene.canvas.paint(_FLUSH, 0.7 * rim.mask())
    scene.canvas.paint(_RED, core.mask())


def _arborizing(scene: _Scene) -> None:
    rng = scene.rng
    trunk = winding(rng, scene.at(0.95, 0.6), scene.turn + 0.6 + np.pi, scene.length(1.7), 0.12)
    paths = [(trunk, scene.length(0.13))]
    for index, side in ((1, 1), (2, -1), (3, 1), (4, -1), (5, 1)):
        branch = winding(rng, trunk[index], scene.turn + 0.6 + np.pi + side * 0.9, scene.length(0.6), 0.15, 3)
        twig = winding(rng, branch[1], scene.turn + 0.6 + np.pi + side * 0.2, scene.length(0.3), 0.15, 2)
        paths += [(branch, scene.length(0.07)), (twig, scene.length(0.045))]
    _vessels(scene, paths)


def _comma(scene: _Scene) -> None:
    paths = []
    for k in range(7):
        centre = scene.at(0.62, k * np.pi / 3 + scene.rng.uniform(-0.15, 0.15)) if k else scene.at(0, 0)
        start = scene.rng.uniform(0, 2 * np.pi)
        arc = [polar(centre, scene.length(0.15), start + t) for t in np.linspace(0, 2.2, 6)]
        paths.append((arc, scene.length(0.11)))
    _vessels(scene, paths)


def _hairpin(scene: _Scene) -> None:
    paths = []
    for k in range(5):
        foot = scene.at(0.42, k * 2 * np.pi / 5 + scene.rng.uniform(-0.1, 0.1))
        angle = scene.turn + k * 2 * np.pi / 5 + scene.rng.uniform(-0.3, 0.3)
        gap = scene.length(0.1)
        left, right = polar(foot, gap, angle + np.pi / 2), polar(foot, gap, angle - np.pi / 2)
        top = polar(foot, scene.length(0.42), angle)
        bow = [polar(top, gap, angle + np.pi / 2 - t) for t in np.linspace(0, np.pi, 6)]
        paths.append(([left, *bow, right], scene.length(0.065)))
    _vessels(scene, paths)


def _within_regression(scene: _Scene) -> None:
    rng = scene.rng
    paths = []
    for start in sunflower(scene.at(0.55, np.pi), scene.length(0.36), 9, scene.turn):  # a tangle of fine curls
        curl = rng.uniform(0, 2 * np.pi)
        arc = [polar(start, scene.length(0.09), curl + t) for t in np.linspace(0, 4.2, 8)]
        paths.append((arc, scene.length(0.05)))
    _vessels(scene, paths)


def _wreath(scene: _Scene) -> None:
    paths = []
    for k in range(8):
        ends = np.linspace(-0.3, 0.3, 6) + k * np.pi / 4
        paths.append(([scene.at(0.98 - 0.14 * np.cos(5 * (t - k * np.pi / 4)), t) for t in ends], scene.length(0.09)))
    _vessels(scene, paths)


def _dotted(scene: _Scene) -> None:
    places = sunflower(scene.body.centre, scene.length(0.92), 26, scene.turn)
    _vessels(scene, [([place, place], scene.length(0.1)) for place in places])


def _linear_irregular(scene: _Scene) -> None:
    rng = scene.rng
    paths = []
    for k in range(5):
        start = scene.at(rng.uniform(0.75, 0.95), k * 2 * np.pi / 5)
        angle = scene.turn + k * 2 * np.pi / 5 + np.pi + rng.uniform(-0.8, 0.8)
        points = [start]
        for step in range(4):  # a zigzag
            points.append(polar(points[-1], scene.length(rng.uniform(0.2, 0.32)), angle + (0.8 if step % 2 else -0.8)))
        paths.append((points, scene.length(rng.uniform(0.06, 0.12))))
    _vessels(scene, paths)


_DRAWERS: Mapping[str, Mapping[str, Callable[[_Scene], None]]] = {
    "Pigmentation": {
        "diffuse regular": _diffuse_regular,
        "localized regular": _localized_regular,
        "diffuse irregular": _diffuse_irregular,
        "localized irregular": _localized_irregular,
    },
    "Blue Whitish Veil": {"present": _veil},
    "Regression Structures": {"blue areas": _blue_areas, "white areas": _white_areas, "combinations": _both_areas},
    "Pigment Network": {"typical": _typical_network, "atypical": _atypical_network},
    "Dots and Globules": {"regular": _regular_globules, "irregular": _irregular_globules},
    "Streaks": {"regular": _regular_streaks, "irregular": _irregular_streaks},
    "Vascular Structures": {
        "arborizing": _arborizing,
        "comma": _comma,
        "hairpin": _hairpin,
        "within regression": _within_regression,
        "wreath": _wreath,
        "dotted": _dotted,
        "linear irregular": _linear_irregular,
    },
}
