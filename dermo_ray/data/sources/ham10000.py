"""HAM10000: 10,015 dermoscopic images of 7 diagnoses, several of one lesion among them.

Tschandl, Rosendahl, Kittler, "The HAM10000 dataset", Scientific Data 5, 180161 (2018), doi:10.7910/DVN/DBW86T.
Published layout: `HAM10000_metadata.csv` beside the folders `HAM10000_images_part_1` and `HAM10000_images_part_2`,
images as `<image_id>.jpg`. A part may be missing: its rows are then counted as missing files.
"""

import csv
import os
from pathlib import Path

from dermo_ray.config.prepare import SourceConfig
from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.errors import UserError

_METADATA = "HAM10000_metadata.csv"
_PARTS = "HAM10000_images_part_"
_COLUMNS = ("lesion_id", "image_id", "dx")


class Ham10000:
    """The published folder; the group is the lesion."""

    licence = "HAM10000 (Tschandl et al. 2018, doi:10.7910/DVN/DBW86T): CC BY-NC 4.0"

    def __init__(self, config: SourceConfig, seed: int) -> None:
        self._root = Path(config.root or "").absolute()

    def entries(self) -> list[Entry]:
        """One entry a row of the metadata table, with the image's path relative to the root and its size in bytes.

        Raises `UserError` where the folder, its table or every image folder is missing or empty.
        """
        if not self._root.is_dir():
            raise UserError(f"no such folder: {self._root}; root is the folder that holds {_METADATA}")
        files = self._files()
        return [_entry(number, row, files) for number, row in enumerate(self._rows(), start=1)]

    def _rows(self) -> list[dict[str, str | None]]:
        path = self._root / _METADATA
        if not path.is_file():
            raise UserError(f"{self._root} holds no {_METADATA}; root is the folder of the published data set")
        # published tables are ASCII; a damaged byte should cost its own row, not the run
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(_COLUMNS)}")
            rows = list(reader)
        if not rows:
            raise UserError(f"{path} has no rows")
        return rows

    def _files(self) -> dict[str, tuple[str, int]]:
        """{image id: (path relative to the root, size in bytes)} over both parts."""
        parts = sorted(path for path in self._root.iterdir() if path.name.startswith(_PARTS) and path.is_dir())
        found = {
            Path(file.name).stem: (f"{part.name}/{file.name}", file.stat().st_size)
            for part in parts
            for file in os.scandir(part)
        }
        if not found:
            raise UserError(f"{self._root} holds no images: expected {_PARTS}1/<image_id>.jpg")
        return found

    def sample(self, entry: Entry) -> Sample:
        """The sample of one row. Raises `Reject` for a row without an image id or without its file."""
        facts = entry.facts
        if not facts["image_id"]:
            raise Reject("malformed_row")
        if facts["file"] is None:
            raise Reject("missing_file")
        return Sample(
            id=entry.id,
            source="ham10000",
            group=f"ham10000/{facts['lesion_id'] or facts['image_id']}",
            modality="dermoscopic",
            image=self._root / facts["file"],
            raw_label=facts["dx"] or None,
        )


def _entry(number: int, row: dict[str, str | None], files: dict[str, tuple[str, int]]) -> Entry:
    values = {name: (row[name] or "").strip() for name in _COLUMNS}
    image_id = values["image_id"]
    file, size = files.get(image_id, (None, 0))
    return Entry(f"ham10000_{image_id or f'row_{number}'}", {**values, "file": file, "bytes": size})
