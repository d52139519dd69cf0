"""ISIC Archive: any selection of its images with their metadata, as `isic image download` and the site export it.

Layout and vocabularies: github.com/ImageMarkup/isic-cli and the archive's package isic-metadata 4.12. `metadata.csv`
(or one `..._metadata_<date>.csv`, as the site names a collection's) with `isic_id`, `diagnosis_1` (benign or malignant)
to `diagnosis_5` (grades of a subtype), in exports of before 2025 `diagnosis` instead or as well, and where anything is
known `image_type`, `lesion_id`, `patient_id`, `fitzpatrick_skin_type` (I to VI); images as `<isic_id>.jpg` beside it or
in folders below.
"""

from pathlib import Path

from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import (
    ListedSource,
    Row,
    existing,
    fitzpatrick,
    images_by_stem,
    listed,
    read_rows,
)
from dermo_ray.errors import UserError
from dermo_ray.morphology import Modality

_DIAGNOSES = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis", "diagnosis_2", "diagnosis_1")
"""Columns that name the disease, the finest first; the older `diagnosis` names one where levels 1 and 2 only sort."""


class IsicArchive(ListedSource):
    """An export; the label is the finest diagnosis, the group the patient, or if nobody is named the lesion."""

    licence = (
        "ISIC Archive: CC-0, CC-BY or CC-BY-NC, image by image, and so is whom to name: "
        "columns copyright_license and attribution of its metadata"
    )

    def entries(self) -> list[Entry]:
        """One entry a row of the metadata table. Raises `UserError` where the folder is no export with images."""
        root = existing(self._root, "metadata.csv and the images of an export")
        table = _table(root)
        rows = read_rows(table, ("isic_id",))
        if not rows[0].keys() & {*_DIAGNOSES}:
            raise UserError(f"{table} has no column diagnosis_1; export the metadata with its diagnoses")
        images = images_by_stem(root, ("",), "<isic_id>.jpg")
        # a patient is often named on some images of a lesion alone
        patients = {
            row["lesion_id"]: row["patient_id"] for row in rows if row.get("lesion_id") and row.get("patient_id")
        }
        return [
            listed(
                self._title,
                number,
                row["isic_id"],
                images.get(row["isic_id"].lower()),
                modality=_modality(row),
                label=next((row[name] for name in _DIAGNOSES if row.get(name)), ""),
                group=row.get("patient_id") or patients.get(row.get("lesion_id", "")) or row.get("lesion_id", ""),
                skin_tone=fitzpatrick(row.get("fitzpatrick_skin_type", "")),
            )
            for number, row in enumerate(rows, start=1)
        ]


def _table(root: Path) -> Path:
    tables = [root / "metadata.csv"]
    if not tables[0].is_file():
        tables = sorted(root.glob("*metadata*.csv")) or tables
    if len(tables) > 1:
        raise UserError(f"{root} holds {len(tables)} metadata tables; name the one to read metadata.csv")
    return tables[0]


def _modality(row: Row) -> Modality | None:
    """RCM (confocal microscopy) is neither; a blank type is dermoscopic where the kind of dermoscope is known."""
    kind = row.get("image_type", "").lower()
    if kind.startswith("dermoscopic") or (not kind and row.get("dermoscopic_type")):
        return "dermoscopic"
    return "clinical" if kind.startswith(("clinical", "tbp tile")) else None
