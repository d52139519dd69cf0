"""Any table of images: CSV, TSV, Parquet or JSON lines, with a map of what its columns mean.

Invariant: a row that can't be read, or names no image, is listed all the same, and refused as malformed.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry
from dermo_ray.data.sources.layout import (
    ListedSource,
    derm7pt_annotation,
    existing,
    fitzpatrick,
    listed,
    read_rows,
    require_columns,
)
from dermo_ray.errors import UserError
from dermo_ray.morphology import SKINCON_KEY, Modality

_Cells = Mapping[str, Any]
"""Column: value, of whatever type the file holds."""


class Table(ListedSource):
    """The table, by the column map of its settings."""

    def __init__(self, config: SourceConfig, seed: int) -> None:
        assert config.columns is not None  # the settings see to it
        super().__init__(config, seed)
        self._file = Path(config.file or "")
        self._modality = config.modality
        self._columns = config.columns

    @property
    def licence(self) -> str:
        """The origin; of the licence only the table's owner knows."""
        return f"{self._title}: the images of {self._file.name}, under the terms of its owner"

    def entries(self) -> list[Entry]:
        """One entry a row. Raises `UserError` for a missing folder, table or column, or a table of another kind."""
        root = existing(self._root, "the images of the table")
        rows = self._rows()
        if not rows:
            raise UserError(f"{self._file} has no rows")
        return [self._entry(number, row, root) for number, row in enumerate(rows, start=1)]

    def _rows(self) -> list[_Cells]:
        if not self._file.is_file():
            raise UserError(f"no such table: {self._file}; file is a .csv, .tsv, .parquet or .jsonl file")
        needed = self._columns.named()
        match self._file.suffix.lower():
            case ".csv" | ".tsv" | ".tab":
                return list(read_rows(self._file, needed))
            case ".parquet":
                return _parquet_rows(self._file, needed)
            case ".jsonl":
                rows = list(_json_rows(self._file))
                require_columns(self._file, {name for row in rows for name in row}, needed)
                return rows
        raise UserError(f"{self._file} is of no kind that is read here; save it as .csv, .tsv, .parquet or .jsonl")

    def _entry(self, number: int, row: _Cells, root: Path) -> Entry:
        columns = self._columns
        text = {name: _text(row.get(name)) for name in columns.named()}
        key = text[columns.image]
        file = columns.image_pattern.replace("{}", key)
        path = root / file
        modality = self._row_modality(text)
        annotation = None
        if modality == "dermoscopic" and columns.derm7pt:
            annotation = derm7pt_annotation(text, columns.derm7pt)
        elif modality == "clinical" and columns.skincon:
            features = _features(row.get(columns.skincon))
            annotation = None if features is None else {SKINCON_KEY: features}
        return listed(
            self._title,
            number,
            key,
            (file, path.stat().st_size) if key and os.path.isfile(path) else None,
            modality=modality,
            label=text[columns.label] if columns.label else "",
            group=text[columns.group] if columns.group else "",
            skin_tone=fitzpatrick(text[columns.skin_tone]) if columns.skin_tone else None,
            annotation=annotation,
        )

    def _row_modality(self, text: Mapping[str, str]) -> Modality | None:
        said = text[self._columns.modality] if self._columns.modality else ""
        if not said:
            return self._modality
        return "dermoscopic" if "derm" in said.lower() else "clinical"


def _parquet_rows(path: Path, columns: list[str]) -> list[_Cells]:
    try:
        names = pq.read_schema(path).names
        require_columns(path, names, columns)
        return list(pq.read_table(path, columns=columns).to_pylist())
    except pa.ArrowException as error:
        raise UserError(f"{path} can't be read as Parquet: {' '.join(str(error).split())}") from error


def _json_rows(path: Path) -> Iterator[_Cells]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in lines:
            if line.strip():
                yield _object(line)


def _object(line: str) -> _Cells:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # a damaged line: the row counts, and is refused as malformed
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A cell as text; what stands for nothing (null, NaN) is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _features(value: Any) -> list[str] | None:
    """The SkinCon features of a cell; an empty list says that none is present, an empty text that nobody looked."""
    if isinstance(value, list):
        return list(dict.fromkeys(map(_text, value)))
    text = _text(value)
    return list(dict.fromkeys(part.strip() for part in text.split(";") if part.strip())) if text else None
