"""SkinCon: which of 48 clinical features dermatologists saw in photographs of Fitzpatrick17k and DDI.

Daneshjou, Yuksekgonul, Cai, Novoa, Zou, "SkinCon: A skin disease dataset densely annotated by domain experts for
fine-grained debugging and analysis", NeurIPS 2022, arXiv 2302.00785, https://skincon-dataset.github.io.
Published layout: `annotations_fitzpatrick17k.csv` and `annotations_ddi.csv`, a row an image, with the name of its file
in `ImageID`, a 0 or 1 in a column for each feature, and in `Do not consider this image` a 1 for those to leave out.

Invariant: an image is annotated only where its row is whole and not to be left out; no feature at all is an annotation.
"""

from collections.abc import Set
from pathlib import Path

from dermo_ray.data.sources.layout import Row, read_rows
from dermo_ray.errors import UserError
from dermo_ray.morphology import SKINCON_FEATURES, SKINCON_KEY

_IMAGE = "ImageID"
_LEAVE_OUT = "Do not consider this image"
_PRESENT = frozenset({"1", "1.0"})
_ABSENT = frozenset({"0", "0.0"})

SkinconAnnotation = dict[str, list[str]]
"""The released JSON shape of a morphology in this vocabulary."""


def read_skincon(path: Path, images: Set[str]) -> dict[str, SkinconAnnotation]:
    """{image: its annotation} for those of `images`, file names without suffix, that the table annotates.

    Raises `UserError` where the table is missing or damaged, or annotates another data set.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; skincon is SkinCon's table of annotations over this data set")
    rows = {Path(row[_IMAGE]).stem: row for row in read_rows(path, (_IMAGE, *SKINCON_FEATURES, _LEAVE_OUT))}
    if not rows.keys() & images:
        raise UserError(f"{path} annotates no image of this data set; skincon is SkinCon's table over this one")
    return {image: _annotation(row) for image, row in rows.items() if image in images and _usable(row)}


def _usable(row: Row) -> bool:
    return row[_LEAVE_OUT] in _ABSENT and all(row[name] in _PRESENT | _ABSENT for name in SKINCON_FEATURES)


def _annotation(row: Row) -> SkinconAnnotation:
    return {SKINCON_KEY: [name for name in SKINCON_FEATURES if row[name] in _PRESENT]}
