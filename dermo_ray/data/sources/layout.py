"""What published layouts have in common: a table of rows, image files under a folder, and how one becomes a sample.

Invariants: a damaged byte costs its own row, not the run; listings are sorted, so they don't depend on the file system;
an entry's facts name the file by its path below the root, so that they mean the same on every machine.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, Modality, Morphology

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

Row = dict[str, str]
"""Column: value, stripped; an absent value is the empty string."""

ImageFile = tuple[str, int]
"""Path relative to the root, with forward slashes, and size in bytes."""

_LONGEST_CELL = 100
"""Lines; a pathologist's report in one cell has tens of them."""

_SKIN_TYPE = re.compile(r"(?:(?:fst|type)[\s_-]*)?(?:(iii|ii|iv|i|vi|v)|([1-6])(?:\.0*)?)(?![\w.])")
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}


def existing(root: Path | None, holds: str) -> Path:
    """`root` as an absolute path. Raises `UserError` where there is no such folder; `holds` says what is in it."""
    folder = Path(root or "").absolute()
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; root is the folder that holds {holds}")
    return folder


def table_of(root: Path, *names: str) -> Path:
    """Where the table lies: under the first of its `names` that is there, else the first, for `read_rows` to miss."""
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def read_rows(path: Path, columns: Sequence[str], delimiter: str | None = None) -> list[Row]:
    """The rows of a table with a header; without a `delimiter`, tabs where the header has one, else commas.

    Raises `UserError` where it is missing, empty or lacks one of `columns`.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}; root is the folder of the published data set")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = file.readlines()
    separator = delimiter or ("\t" if lines and "\t" in lines[0] else ",")
    records = list(_records(lines, separator))
    header = records[0] if records else []
    require_columns(path, header, columns)
    if len(records) < 2:
        raise UserError(f"{path} has no rows")
    return [
        {name: cell for name, cell in zip_longest(header, cells[: len(header)], fillvalue="") if name}
        for cells in records[1:]
    ]


def _records(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of each record, the header's first; blank lines are skipped."""
    start = width = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        cells, start = _record(lines, start, delimiter, width)
        width = width or len(cells)
        yield cells


def _record(lines: Sequence[str], start: int, delimiter: str, width: int) -> tuple[list[str], int]:
    """The cells of the record at line `start`, and the line after it.

    A quoted cell may span lines, if what comes of it is as wide as the header; or else a quote that nothing closes, or
    that closes another row's, would swallow the rows in between.
    """
    quotes = 0
    for end in range(start, min(len(lines), start + _LONGEST_CELL)):
        quotes += lines[end].count('"')
        if quotes % 2 == 0:
            cells = _cells("".join(lines[start : end + 1]), delimiter)
            if end == start or len(cells) == width:
                return cells, end + 1
            break
    return _cells(lines[start], delimiter), start + 1


def _cells(record: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([record], delimiter=delimiter))]
    except csv.Error:  # a cell beyond the module's size limit: the row counts, and is refused as malformed
        return []


def require_columns(path: Path, header: Iterable[str], columns: Sequence[str]) -> None:
    """Raise `UserError` naming the first of `columns` that the table at `path` lacks."""
    missing = [name for name in columns if name not in set(header)]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(columns)}")


def image_files(root: Path, below: Iterable[str] = ("",)) -> Iterator[ImageFile]:
    """Every image file in the folders `below` the root, at any depth, sorted by path; hidden files are left out."""
    for name in below:
        yield from sorted(
            (Path(os.path.relpath(file.path, root)).as_posix(), file.stat().st_size) for file in _walk(root / name)
        )


def _walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    if not os.path.isdir(folder):
        return
    try:
        found = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"can't list {folder} ({error.strerror}): mend its permissions, or name another root"
        ) from error
    for item in found:
        if item.name.startswith("."):  # macOS leaves ._NAME.jpg beside an unpacked NAME.jpg
            continue
        if item.is_dir():
            yield from _walk(item.path)
        elif item.is_file() and os.path.splitext(item.name)[1].lower() in IMAGE_SUFFIXES:
            yield item


def images_by_stem(root: Path, below: Iterable[str], expected: str) -> dict[str, ImageFile]:
    """{file name without suffix, in lower case: image file}. Raises `UserError` where there is no image at all.

    Tables and archives disagree about letter case and about .jpg against .jpeg; stems are what they agree on.
    """
    found = {Path(file).stem.lower(): (file, size) for file, size in image_files(root, below)}
    if not found:
        raise UserError(f"{root} holds no images: expected {expected}")
    return found


def fitzpatrick(text: str) -> int | None:
    """The Fitzpatrick type, 1 to 6, that a text begins with ("3", "3.0", "III", "FST3", "iii olive skin"), or None."""
    match = _SKIN_TYPE.match(text.strip().lower())
    if match is None:
        return None
    roman, digit = match.groups()
    return _ROMAN[roman] if roman else int(digit)


def derm7pt_annotation(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, Any] | None:
    """The released JSON shape of a row's seven-point annotation; None where the row does not fill in all seven.

    `columns` is {Derm7pt field: the column with its value}. A part of the checklist is no morphology that a completion
    could state; the image's diagnosis is as good without it.
    """
    values = {name: row[columns[name]] for name in DERM7PT_FIELDS}
    return {DERM7PT_KEY: values} if all(values.values()) else None


def listed(
    title: str,
    number: int,
    key: str,
    image: ImageFile | None,
    *,
    modality: Modality | None,
    label: str = "",
    group: str = "",
    skin_tone: int | None = None,
    annotation: Mapping[str, Any] | None = None,
) -> Entry:
    """The entry of row `number` (counted from 1) about the image called `key`; empty text stands for unknown.

    `annotation` is a morphology in its released JSON shape, in the vocabulary of the modality. A row that can't be
    written down, as a file's name that is no UTF-8 can't, keeps its number alone, and is refused as malformed.
    """
    file, size = image or (None, 0)
    if not all(map(_is_text, (key, file or "", label, group))):
        return Entry(f"{title}_row_{number}")
    facts = {
        "key": key,
        "file": file,
        "bytes": size,
        "modality": modality,
        "label": label,
        "group": group,
        "skin_tone": skin_tone,
        "annotation": annotation,
    }
    return Entry(f"{title}_{key or f'row_{number}'}", {name: fact for name, fact in facts.items() if fact})


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def listed_sample(entry: Entry, title: str, root: Path) -> Sample:
    """The sample of an entry that `listed` made.

    Raises `Reject`: malformed_row (no image is named, or not in text), missing_file, unknown_modality,
    malformed_morphology (a value outside the vocabulary, or some Derm7pt fields without a value).
    """
    facts = entry.facts
    if "key" not in facts:
        raise Reject("malformed_row")
    if "file" not in facts:
        raise Reject("missing_file")
    if "modality" not in facts:
        raise Reject("unknown_modality")
    morphology = Morphology.from_json(facts["annotation"]) if "annotation" in facts else None
    if morphology is not None and not morphology.closed:
        raise Reject("malformed_morphology")
    return Sample(
        id=entry.id,
        source=title,
        group=f"{title}/{facts['group']}" if "group" in facts else None,
        modality=facts["modality"],
        image=root / facts["file"],
        raw_label=facts.get("label"),
        morphology=morphology,
        annotation=morphology,
        skin_tone=facts.get("skin_tone"),
    )


class ListedSource:
    """A data set on disk whose `entries` are made by `listed`, and how its samples come of them."""

    def __init__(self, config: SourceConfig, seed: int) -> None:
        self._root = Path(config.root or "").absolute()
        self._title = config.title

    def sample(self, entry: Entry) -> Sample:
        """The sample behind an entry. Raises `Reject` as `listed_sample` does."""
        return listed_sample(entry, self._title, self._root)
