"""MRA-MIDAS: 3,416 images of biopsied lesions and of controls, dermoscopic and clinical at two distances.

Chiou et al., "Multimodal Image Dataset for AI-based Skin Cancer (MIDAS) Benchmarking", NEJM AI (2025),
doi:10.1056/AIdbp2400732; data doi:10.71718/15nz-jv40. Published layout: `release_midas.xlsx` or `release_midas.csv`
with `midas_record_id` (the patient), `midas_file_name`, `midas_distance` (dscope, 6in, 1ft, n/a - virtual),
`midas_iscontrol`, `midas_path` (what the pathologist found, such as "malignant- bcc"), `clinical_impression_1` (such as
"1-benign-melanocytic nevus") and `midas_fitzpatrick` ("ii", with words after it); images beside it or below.

Some 250 of the table's file names differ from the files': those that differ in letter case or suffix are found, the
others are dropped as missing.
"""

import re
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
    table_of,
)
from dermo_ray.data.sources.workbook import read_sheet
from dermo_ray.morphology import Modality

_COLUMNS = (
    "midas_record_id",
    "midas_file_name",
    "midas_distance",
    "midas_iscontrol",
    "midas_path",
    "clinical_impression_1",
    "midas_fitzpatrick",
)
_FAMILY = re.compile(r"(?:\d+\s*-)?\s*(?:benign|malignant|other)\s*-\s*", re.IGNORECASE)


class Midas(ListedSource):
    """The published folder; the group is the patient."""

    licence = (
        "MRA-MIDAS (Chiou et al. 2025, doi:10.71718/15nz-jv40): Stanford AIMI research use agreement, non-commercial"
    )

    def entries(self) -> list[Entry]:
        """One entry a row of the table. Raises `UserError` for another layout."""
        root = existing(self._root, "release_midas.csv or release_midas.xlsx and the images")
        table = table_of(root, "release_midas.csv", "release_midas.xlsx")
        rows = read_sheet(table, _COLUMNS) if table.suffix == ".xlsx" else read_rows(table, _COLUMNS)
        images = images_by_stem(root, ("",), "<midas_file_name>")
        keys = [Path(row["midas_file_name"]).stem for row in rows]
        return [
            listed(
                self._title,
                number,
                key,
                images.get(key.lower()),
                modality=_modality(row["midas_distance"]),
                label=_diagnosis(row),
                group=row["midas_record_id"],
                skin_tone=fitzpatrick(row["midas_fitzpatrick"]),
            )
            for number, (key, row) in enumerate(zip(keys, rows, strict=True), start=1)
        ]


def _modality(distance: str) -> Modality | None:
    distance = distance.lower()
    if distance == "dscope":
        return "dermoscopic"
    return "clinical" if distance in ("6in", "1ft", "n/a - virtual") else None


def _diagnosis(row: Row) -> str:
    """What the pathologist found; of a control, which nobody cut out, what the clinician saw.

    The family in front is cut off, except where nothing but "other" follows.
    """
    text = row["midas_path"]
    if not text and row["midas_iscontrol"].lower() == "yes":
        text = row["clinical_impression_1"]
    name = _FAMILY.sub("", text, count=1)
    return text if name.lower() == "other" else name
