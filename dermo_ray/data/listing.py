"""Everything that is to be read, as tables that can be sent to workers, and what is known of it before that.

Invariant: each entry of each source is listed once; an id that was listed before is set aside as rejected.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from dermo_ray.data.samples import Entry, Reject
from dermo_ray.data.sources import Source
from dermo_ray.data.tables import INGESTED

_SCHEMA = pa.schema({"source": pa.string(), "id": pa.string(), "facts": pa.string()})


def as_tables(title: str, entries: Sequence[Entry], rows_per_table: int) -> Iterator[pa.Table]:
    """The distinct entries of the source called `title`, in tables of about `rows_per_table` rows, twice that at most.

    A table ends where the ids say so, not at a count: an entry that is added or removed changes the table that it falls
    into, and the next ones seldom, so that the others can be taken from the cache.
    """
    least = max(1, rows_per_table // 2)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            continue
        seen.add(entry.id)
        rows.append({"source": title, "id": entry.id, "facts": json.dumps(entry.facts)})
        ends = zlib.crc32(entry.id.encode()) % least == 0
        if len(rows) >= (least if ends else 2 * rows_per_table):
            yield pa.Table.from_pylist(rows, _SCHEMA)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, _SCHEMA)


def entries_of(table: pa.Table) -> Iterator[Entry]:
    """The entries of a table that `as_tables` made."""
    return (Entry(row["id"], json.loads(row["facts"])) for row in table.to_pylist())


def repeated(listings: Mapping[str, Sequence[Entry]]) -> pa.Table:
    """An `INGESTED` table of the entries whose id had come before, rejected as `duplicate_id`."""
    rows = []
    for title, entries in listings.items():
        seen: set[str] = set()
        for entry in entries:
            if entry.id in seen:
                rows.append(dict.fromkeys(INGESTED.names) | {"id": entry.id, "source": title, "reject": "duplicate_id"})
            seen.add(entry.id)
    return pa.Table.from_pylist(rows, INGESTED)


@dataclass
class Survey:
    """What the tables of a source say, before an image is opened."""

    entries: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Entries that can't be used whatever their image holds, by reason."""
    labels: Counter[str] = field(default_factory=Counter)
    """Labels as the source writes them."""


def survey(source: Source, entries: Sequence[Entry]) -> Survey:
    """Look at every entry of a source that lists files; of one that draws, this would draw everything."""
    found = Survey(entries=len(entries))
    for entry in entries:
        try:
            sample = source.sample(entry)
        except Reject as verdict:
            found.refused[verdict.reason] += 1
        else:
            if sample.raw_label is not None:
                found.labels[sample.raw_label] += 1
    return found
