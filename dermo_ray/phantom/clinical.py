"""Draws a clinical photograph from its set of SkinCon features.

A phantom has at most one form (the lesion in the middle: patch, plaque, nodule, bulla, wheal) with at most one colour,
small lesions scattered around it, and surface changes on it; those that are small have a sector of it each.
Invariant: every feature of `DRAWN_FEATURES` has a drawing that no other feature shares.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from dermo_ray.phantom.canvas import (
    Blob,
    Canvas,
    Colour,
    Point,
    Strokes,
    grid,
    polar,
    ramp,
    rgb,
    sunflower,
    winding,
)
from dermo_ray.phantom.skin import bare_skin, skin_colour

_FLUSH = rgb("e2564e")
_BLOOD = rgb("b3121f")
_DARK_BLOOD = rgb("4d0a10")
_GLINT = rgb("ffffff")

COLOURS: Mapping[str, Colour] = {
    "Brown(Hyperpigmentation)": rgb("4a2a17"),
    "White(Hypopigmentation)": rgb("fdf6f0"),
    "Salmon": rgb("f58a6c"),
    "Purple": rgb("8a4a9c"),
    "Yellow": rgb("ecc94b"),
}
"""SkinCon colours that a patch, plaque or nodule can have."""


@dataclass
class _Scene:
    """The photograph under construction; `turn` orients the sectors of the surface changes."""

    rng: np.random.Generator
    canvas: Canvas
    centre: Point
    turn: float
    tint: Colour
    """Colour of the lesion in the middle."""
    dark: Colour
    """The skin's own colour, much more pigmented."""
    free_slots: list[Point] = field(default_factory=list)
    """Places for small lesions that no other lesion has taken."""
    slots_each: int = 0
    """How many of them each kind of small lesion takes."""
    free_sectors: list[Point] = field(default_factory=list)
    """Places for surface changes."""

    @property
    def size(self) -> int:
        return self.canvas.size

    def take_slots(self) -> list[Point]:
        taken, self.free_slots = self.free_slots[: self.slots_each], self.free_slots[self.slots_each :]
        return taken

    def take_sector(self) -> Point:
        return self.free_sectors.pop()

    def strokes(self) -> Strokes:
        return Strokes(self.size)

    def paint(self, colour: Colour, strokes: Strokes, opacity: float = 1.0) -> None:
        self.canvas.paint(colour, opacity * strokes.mask())

    def dome(self, blob: Blob, height: float) -> None:
        """Shade a blob as a dome lit from the upper left."""
        self.canvas.shade(1 + np.float32(height) * blob.towards_light() * blob.mask())


def draw_clinical(features: Collection[str], tone: int, rng: np.random.Generator, size: int) -> Canvas:
    """A photograph that shows `features`, all of them in `DRAWN_FEATURES`, on skin of the type `tone`."""
    canvas = bare_skin(rng, size, tone)
    centre = (0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03))
    tints = [COLOURS[name] for name in COLOURS if name in features]
    skin = skin_colour(tone)
    tint = tints[0] if tints else (0.74 * skin[0], 0.63 * skin[1], 0.62 * skin[2])
    dark = (0.52 * skin[0], 0.4 * skin[1], 0.3 * skin[2])
    scene = _Scene(rng, canvas, centre, rng.uniform(0, 2 * np.pi), tint, dark)
    scattered = sum(name in features for name in SCATTERED)
    if scattered:
        scene.free_slots = _slots(scene, alone=not any(name in features for name in FORMS))
        scene.slots_each = len(scene.free_slots) // scattered
    scene.free_sectors = [polar(centre, 0.135, scene.turn + k * 2 * np.pi / 3) for k in range(3)]
    for name, drawer in _DRAWERS.items():
        if name in features:
            drawer(scene)
    return canvas


def _slots(scene: _Scene, alone: bool) -> list[Point]:
    """Shuffled places around the form, or all over the image where there is none."""
    rng = scene.rng
    turn = rng.uniform(0, 2 * np.pi)
    places = [polar(scene.centre, rng.uniform(0.36, 0.42), turn + k * np.pi / 7) for k in range(14)]
    if alone:
        places += [polar(scene.centre, rng.uniform(0.16, 0.22), turn + k * np.pi / 3) for k in range(6)]
    return [places[k] for k in rng.permutation(len(places))]


# Forms


def _erythema(scene: _Scene) -> None:
    flush = Blob(scene.rng, scene.size, scene.centre, 0.42, 0.12)
    scene.canvas.paint(_FLUSH, 0.7 * ramp(flush.depth, -0.1, 0.35))


def _patch(scene: _Scene) -> None:
    scene.canvas.paint(scene.tint, 0.9 * Blob(scene.rng, scene.size, scene.centre, 0.29, 0.16).mask(0.02))


def _plaque(scene: _Scene) -> None:
    blob = Blob(scene.rng, scene.size, scene.centre, 0.27, 0.06)
    lit = blob.towards_light()
    scene.canvas.shade(1 - 0.55 * ramp(blob.depth, -0.22, 0.0) * ramp(-lit, 0.0, 0.5))  # the shadow it casts
    scene.canvas.paint(scene.tint, blob.mask(0.012))
    rim = blob.mask(0.012) * ramp(blob.depth, 0.26, 0.16)
    scene.canvas.shade(1 + 0.42 * rim * np.clip(lit * 1.5, -1, 1))


def _nodule(scene: _Scene) -> None:
    blob = Blob(scene.rng, scene.size, scene.centre, 0.22, 0.03)
    scene.canvas.paint(scene.tint, blob.mask(0.012))
    scene.dome(blob, 0.6)
    shine = Blob(scene.rng, scene.size, (scene.centre[0] - 0.08, scene.centre[1] - 0.08), 0.06, 0.02)
    scene.canvas.paint(_GLINT, 0.75 * ramp(shine.depth, 0.0, 0.8))


def _bulla(scene: _Scene) -> None:
    blob = Blob(scene.rng, scene.size, scene.centre, 0.25, 0.04)
    scene.canvas.paint(rgb("7d3b2a"), blob.mask(0.012))
    inner = blob.mask(0.012) * ramp(blob.depth, 0.08, 0.13)
    scene.canvas.paint(rgb("f4dfae"), inner)
    scene.canvas.paint(rgb("d9a45e"), inner * ramp(grid(scene.size)[1], scene.centre[1] + 0.06, scene.centre[1] + 0.08))
    glint = scene.strokes()
    glint.line([polar(scene.centre, 0.18, t) for t in np.linspace(3.4, 4.4, 6)], 0.03)
    scene.paint(_GLINT, glint)


def _wheal(scene: _Scene) -> None:
    depth = np.full((scene.size, scene.size), -9, np.float32)
    for k in range(4):  # several merged lobes
        place = polar(scene.centre, 0.15, scene.turn + k * np.pi / 2 + scene.rng.uniform(-0.3, 0.3))
        depth = np.maximum(depth, Blob(scene.rng, scene.size, place, scene.rng.uniform(0.12, 0.15), 0.05).depth)
    scene.canvas.paint(rgb("e8505e"), ramp(depth, -0.35, -0.05))
    scene.canvas.paint(rgb("fbd9d6"), ramp(depth, 0.02, 0.15))


# Small lesions


def _macules(scene: _Scene) -> None:
    spots = scene.strokes()
    for place in scene.take_slots():
        spots.disc(place, scene.rng.uniform(0.035, 0.045))
    scene.paint(scene.dark, spots, 0.9)


def _papules(scene: _Scene) -> None:
    _domes(scene, scene.take_slots(), rgb("d9584f"), rgb("8f2b2b"), 0.042)


def _domes(scene: _Scene, places: list[Point], colour: Colour, shadow: Colour, radius: float) -> None:
    under, top, glint = scene.strokes(), scene.strokes(), scene.strokes()
    for x, y in places:
        under.disc((x + 0.012, y + 0.012), radius * 1.1)
        top.disc((x, y), radius)
        glint.disc((x - radius * 0.35, y - radius * 0.35), radius * 0.3)
    scene.paint(shadow, under, 0.85)
    scene.paint(colour, top)
    scene.paint(_GLINT, glint, 0.9)


def _vesicles(scene: _Scene) -> None:
    rim, inside, glint = scene.strokes(), scene.strokes(), scene.strokes()
    for x, y in scene.take_slots():
        for dx, dy, radius in ((-0.022, 0, 0.026), (0.026, -0.012, 0.022), (0.006, 0.028, 0.022)):  # a small cluster
            rim.disc((x + dx, y + dy), radius)
            inside.disc((x + dx, y + dy), radius - 0.01)
            glint.disc((x + dx - 0.006, y + dy - 0.006), 0.005)
    scene.paint(rgb("5c7f96"), rim)
    scene.paint(rgb("d6edf5"), inside)
    scene.paint(_GLINT, glint)


def _pustules(scene: _Scene) -> None:
    ring, pus = scene.strokes(), scene.strokes()
    for place in scene.take_slots():
        ring.disc(place, 0.048)
        pus.disc(place, 0.028)
    scene.paint(rgb("c62f35"), ring)
    scene.paint(rgb("f7efb0"), pus)


def _comedones(scene: _Scene) -> None:
    rim, plug = scene.strokes(), scene.strokes()
    for place in scene.take_slots():
        rim.disc(place, 0.033)
        plug.disc(place, 0.02)
    scene.paint(rgb("f6e3cf"), rim, 0.9)
    scene.paint(rgb("120c0a"), plug)


def _petechiae(scene: _Scene) -> None:
    spots = scene.strokes()
    for place in scene.take_slots():
        for _ in range(5):
            spots.disc(polar(place, scene.rng.uniform(0.01, 0.05), scene.rng.uniform(0, 2 * np.pi)), 0.012)
    scene.paint(rgb("6d1250"), spots)


# Surface changes


def _scale(scene: _Scene) -> None:
    rng = scene.rng
    edge, flakes = scene.strokes(), scene.strokes()
    for place in sunflower(scene.centre, 0.24, 14, scene.turn):
        first = rng.uniform(0, 2 * np.pi)
        corners = [polar(place, rng.uniform(0.03, 0.05), first + k * 2 * np.pi / 5) for k in range(5)]
        flakes.polygon(corners)
        edge.polygon([(x + 0.01, y + 0.012) for x, y in corners])
    scene.paint(rgb("8d8f98"), edge, 0.8)
    scene.paint(rgb("f0f2f6"), flakes)


def _lichenification(scene: _Scene) -> None:
    x, y = grid(scene.size)
    furrows, ridges = np.zeros_like(x), np.zeros_like(x)
    for angle in (scene.turn, scene.turn + 1.2):
        phase = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / 0.075)
        furrows = np.maximum(furrows, ramp(np.cos(phase), 0.55, 0.9))
        ridges = np.maximum(ridges, ramp(np.cos(phase + 1.3), 0.6, 0.9))
    area = Blob(scene.rng, scene.size, scene.centre, 0.3, 0.1).mask(0.05)
    scene.canvas.paint(rgb("e3b79c"), 0.5 * ridges * area)
    scene.canvas.paint(rgb("4a2820"), 0.9 * furrows * area)


def _telangiectasia(scene: _Scene) -> None:
    lines = scene.strokes()
    for k in range(6):
        angle = scene.turn + k * np.pi / 3
        trunk = winding(scene.rng, polar(scene.centre, 0.06, angle), angle, 0.28, 0.35)
        lines.line(trunk, 0.016)
        lines.line(winding(scene.rng, trunk[2], angle + 0.8, 0.1, 0.3, 3), 0.011)
        lines.line(winding(scene.rng, trunk[3], angle - 0.8, 0.1, 0.3, 3), 0.011)
    scene.paint(_BLOOD, lines)


def _fissure(scene: _Scene) -> None:
    margin, crack = scene.strokes(), scene.strokes()
    across = scene.rng.uniform(0, np.pi)
    for shift in (-0.11, 0.03, 0.15):
        x, y = polar(scene.centre, shift, across + np.pi / 2)
        points = []
        for k in range(7):  # a jagged line
            px, py = polar((x, y), (k - 3) * 0.075, across)
            points.append(polar((px, py), 0.024 if k % 2 else -0.024, across + np.pi / 2))
        margin.line(points, 0.044)
        crack.line(points, 0.022)
    scene.paint(rgb("f0b7a6"), margin, 0.9)
    scene.paint(_DARK_BLOOD, crack)


def _excoriation(scene: _Scene) -> None:
    scratch = scene.strokes()
    angle = scene.rng.uniform(0, 2 * np.pi)
    for k in range(4):
        x, y = polar(scene.centre, (k - 1.5) * 0.05, angle + np.pi / 2)
        reach = scene.rng.uniform(0.36, 0.42)
        scratch.line([polar((x, y), -reach, angle), polar((x, y), reach, angle)], 0.017)
    scene.paint(rgb("e0142c"), scratch)


def _erosion(scene: _Scene) -> None:
    blob = Blob(scene.rng, scene.size, scene.take_sector(), 0.1, 0.15)
    scene.canvas.paint(rgb("f7a8a0"), blob.mask())
    scene.canvas.paint(rgb("e3262e"), blob.mask() * ramp(blob.depth, 0.12, 0.2))
    glint = scene.strokes()
    for dx, dy in ((-0.04, -0.03), (0.0, 0.01), (0.03, -0.03)):
        glint.disc((blob.centre[0] + dx, blob.centre[1] + dy), 0.012)
    scene.paint(_GLINT, glint)


def _ulcer(scene: _Scene) -> None:
    blob = Blob(scene.rng, scene.size, scene.take_sector(), 0.13, 0.1)
    scene.canvas.paint(rgb("e8d8a0"), blob.mask())
    scene.canvas.paint(rgb("7a1018"), blob.mask() * ramp(blob.depth, 0.25, 0.35))
    scene.canvas.paint(rgb("1d0507"), blob.mask() * ramp(blob.depth, 0.5, 0.75))


def _crust(scene: _Scene) -> None:
    rng = scene.rng
    centre = scene.take_sector()
    under, lumps, pits = scene.strokes(), scene.strokes(), scene.strokes()
    for _ in range(8):
        place = polar(centre, 0.085 * float(np.sqrt(rng.uniform(0, 1))), rng.uniform(0, 2 * np.pi))
        radius = rng.uniform(0.025, 0.045)
        under.disc(place, radius + 0.014)
        lumps.disc(place, radius)
        pits.disc(polar(place, 0.012, rng.uniform(0, 2 * np.pi)), 0.009)
    scene.paint(rgb("5a2f0c"), under)
    scene.paint(rgb("cf8a1e"), lumps)
    scene.paint(rgb("6b3a10"), pits)


def _warty(scene: _Scene) -> None:
    centre = scene.take_sector()
    gaps, bumps, lights = scene.strokes(), scene.strokes(), scene.strokes()
    for place in sunflower(centre, 0.115, 19, scene.turn):
        gaps.disc(place, 0.035)
        bumps.disc(place, 0.022)
        lights.disc((place[0] - 0.006, place[1] - 0.006), 0.009)
    scene.paint(rgb("3a3330"), gaps)
    scene.paint(rgb("a59a8c"), bumps)
    scene.paint(rgb("eee7da"), lights)


def _umbilicated(scene: _Scene) -> None:
    centre = scene.take_sector()
    rim, dome, dimple = scene.strokes(), scene.strokes(), scene.strokes()
    rim.disc(centre, 0.115)
    dome.disc(centre, 0.1)
    dimple.disc(centre, 0.038)
    scene.paint(rgb("7c4a44"), rim)
    scene.paint(rgb("fbdccb"), dome)
    scene.paint(rgb("4a1f22"), dimple)


FORMS: tuple[str, ...] = ("Patch", "Plaque", "Nodule", "Bulla", "Wheal")
COLOURED_FORMS: tuple[str, ...] = ("Patch", "Plaque", "Nodule")
SCATTERED: tuple[str, ...] = ("Macule", "Papule", "Vesicle", "Pustule", "Comedo", "Purpura/Petechiae")
SURFACES: tuple[str, ...] = (
    "Lichenification", "Scale", "Erosion", "Ulcer", "Crust", "Warty/Papillomatous", "Umbilicated", "Fissure",
    "Excoriation", "Telangiectasia",
)  # fmt: skip

_DRAWERS: Mapping[str, Callable[[_Scene], None]] = {
    "Erythema": _erythema,
    "Patch": _patch,
    "Plaque": _plaque,
    "Nodule": _nodule,
    "Bulla": _bulla,
    "Wheal": _wheal,
    "Macule": _macules,
    "Papule": _papules,
    "Vesicle": _vesicles,
    "Pustule": _pustules,
    "Comedo": _comedones,
    "Purpura/Petechiae": _petechiae,
    "Lichenification": _lichenification,
    "Scale": _scale,
    "Erosion": _erosion,
    "Ulcer": _ulcer,
    "Crust": _crust,
    "Warty/Papillomatous": _warty,
    "Umbilicated": _umbilicated,
    "Fissure": _fissure,
    "Excoriation": _excoriation,
    "Telangiectasia": _telangiectasia,
}

DRAWN_FEATURES: tuple[str, ...] = (*_DRAWERS, *COLOURS)
"""The SkinCon features that phantoms can show."""
