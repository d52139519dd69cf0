"""The first sheet of an Excel workbook as rows of text.

ECMA-376 part 1, chapter 18: a sheet's cells name their column by letters, and hold a number, text, or the index of a
shared text. Formats, formulas and further sheets are left aside.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from dermo_ray.data.sources.layout import Row, require_columns
from dermo_ray.errors import UserError

_SHEET = "xl/worksheets/sheet1.xml"
_SHARED = "xl/sharedStrings.xml"
_NAMESPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_sheet(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows below the header row. Raises `UserError` where it is no workbook or lacks one of `columns`."""
    try:
        with zipfile.ZipFile(path) as book:
            shared = list(_texts(book)) if _SHARED in book.namelist() else []
            sheet = ElementTree.fromstring(book.read(_SHEET))
            header, *rows = [_cells(row, shared) for row in sheet.iter(f"{_NAMESPACE}row")] or [{}]
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, ElementTree.ParseError) as error:
        raise UserError(f"{path} can't be read as an Excel workbook: {error}; save it as CSV instead") from error
    require_columns(path, header.values(), columns)
    if not rows:
        raise UserError(f"{path} has no rows")
    return [{name: row.get(column, "") for column, name in header.items() if name} for row in rows]


def _texts(book: zipfile.ZipFile) -> Iterator[str]:
    for item in ElementTree.fromstring(book.read(_SHARED)):
        yield "".join(text.text or "" for text in item.iter(f"{_NAMESPACE}t"))


def _cells(row: ElementTree.Element, shared: Sequence[str]) -> dict[str, str]:
    """{column letters: text}."""
    cells = {}
    for cell in row.iter(f"{_NAMESPACE}c"):
        column = cell.get("r", "").rstrip("0123456789")
        value = cell.findtext(f"{_NAMESPACE}v", "")
        if cell.get("t") == "s":
            value = shared[int(value)]
        elif cell.get("t") == "inlineStr":
            value = "".join(text.text or "" for text in cell.iter(f"{_NAMESPACE}t"))
        cells[column] = value.strip()
    return cells
