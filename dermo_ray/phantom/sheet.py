"""A contact sheet of everything phantoms can show: `python -m dermo_ray.phantom.sheet OUT.png`.

Invariant: the sheet lists what the drawing tables hold, so a value that is added there appears here.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.phantom.clinical import COLOURS, DRAWN_FEATURES
from dermo_ray.phantom.diagnoses import DIAGNOSES
from dermo_ray.phantom.nuisance import NUISANCES, disturb
from dermo_ray.phantom.render import draw, draw_morphology
from dermo_ray.phantom.settings import NuisanceSettings, PhantomSettings
from dermo_ray.phantom.skin import SKIN_TONES

_COLUMNS = 8
_MARGIN = 132  # pixels, for the row titles
_CAPTION = 30  # pixels
_GAP = 6  # pixels
_BITS = 6  # of each colour channel; the eye misses none of the rest, and the file is half as large
_PLAIN_TONE = 2

Cell = tuple[str, Image.Image]
"""A caption and its picture."""


def contact_sheet(settings: PhantomSettings, *, seed: int = 0) -> Image.Image:
    """A labelled RGB image: each Derm7pt value and SkinCon feature alone, then tones, diagnoses and nuisances."""
    rows = [
        (title if start == 0 else "", cells[start : start + _COLUMNS])
        for title, cells in _sections(settings, seed)
        for start in range(0, len(cells), _COLUMNS)
    ]
    pitch_x, pitch_y = settings.size + _GAP, settings.size + _CAPTION + _GAP
    sheet = Image.new("RGB", (_MARGIN + _COLUMNS * pitch_x, _GAP + len(rows) * pitch_y), "white")
    pen = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(13), ImageFont.load_default(10)
    for row, (title, cells) in enumerate(rows):
        top = _GAP + row * pitch_y
        pen.multiline_text((_GAP, top), title, fill="black", font=bold)
        for column, (caption, picture) in enumerate(cells):
            left = _MARGIN + column * pitch_x
            sheet.paste(picture, (left, top))
            below = (left, top + settings.size + 1)
            pen.multiline_text(below, _wrapped(caption, settings.size, small), fill="black", font=small, spacing=1)
    return ImageOps.posterize(sheet, _BITS)


def _wrapped(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`caption` broken into lines that fit `width` pixels, also before brackets and after slashes."""
    lines = [""]
    for word in caption.replace("(", " (").replace("/", "/ ").split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines).replace("/ ", "/")


def _sections(settings: PhantomSettings, seed: int) -> Iterator[tuple[str, list[Cell]]]:
    size = settings.size
    plain = {field: values[0] for field, values in DERM7PT_FIELDS.items()}
    for field, values in DERM7PT_FIELDS.items():
        yield (
            field.replace(" ", "\n"),
            [(value, _plain(_with_ground({**plain, field: value}), seed, size)) for value in values],
        )
    features = [(name, _plain(_feature_alone(name), seed, size)) for name in DRAWN_FEATURES]
    yield "SkinCon\n(colours on\na patch)", features
    nevus = Morphology("derm7pt", fields={**plain, "Pigment Network": "typical", "Pigmentation": "localized regular"})
    tones = [
        (f"Fitzpatrick {number}", _plain(nevus, seed, size, tone))
        for tone, number in zip(range(1, len(SKIN_TONES) + 1), ("I", "II", "III", "IV", "V", "VI"), strict=True)
    ]
    yield "Skin types", tones
    undisturbed = settings.model_copy(update={"nuisances": NuisanceSettings(strength=0)})
    examples = [
        (name, Image.fromarray(draw(seed + k, undisturbed, diagnosis=name).image)) for k, name in enumerate(DIAGNOSES)
    ]
    yield "Diagnoses", examples
    yield (
        "Nuisances\n(full strength)",
        [(name.replace("_", " "), _disturbed(nevus, name, seed, size)) for name in NUISANCES],
    )


def _with_ground(fields: Mapping[str, str]) -> Morphology:
    if fields["Vascular Structures"] == "within regression":
        fields = {**fields, "Regression Structures": "white areas"}
    return Morphology("derm7pt", fields=fields)


def _feature_alone(name: str) -> Morphology:
    return Morphology("skincon", features=frozenset({name, "Patch"} if name in COLOURS else {name}))


def _plain(morphology: Morphology, seed: int, size: int, tone: int = _PLAIN_TONE) -> Image.Image:
    return Image.fromarray(draw_morphology(morphology, tone, np.random.default_rng(seed), size).as_image())


def _disturbed(morphology: Morphology, nuisance: str, seed: int, size: int) -> Image.Image:
    canvas = draw_morphology(morphology, _PLAIN_TONE, np.random.default_rng(seed), size)
    disturb(canvas, {**dict.fromkeys(NUISANCES, 0.0), nuisance: 1.0}, np.random.SeedSequence(seed))
    return Image.fromarray(canvas.as_image())


def main() -> None:
    """Write the contact sheet of the default settings."""
    parser = argparse.ArgumentParser(description="Write a contact sheet of everything phantoms can show.")
    parser.add_argument("out", type=Path, help="the PNG file to write")
    contact_sheet(PhantomSettings()).save(parser.parse_args().out, optimize=True)


if __name__ == "__main__":
    main()
