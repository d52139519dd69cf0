"""Everything that is to be read, as a table that can be cut up and sent to workers.

Invariant: each entry of each source is listed once; an id that was listed before is set aside as rejected.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from dermo_ray.data.samples import Entry
from dermo_ray.data.tables import SAMPLES

_SCHEMA = pa.schema({"source": pa.string(), "id": pa.string(), "facts": pa.string()})


def as_tables(listings: Mapping[str, Sequence[Entry]], rows_per_table: int) -> list[pa.Table]:
    """The distinct entries of all sources, {source name: entries}, in tables of at most `rows_per_table` rows."""
    rows = [
        {"source": name, "id": entry.id, "facts": json.dumps(entry.facts)}
        for name, entries in listings.items()
        for entry in {entry.id: entry for entry in reversed(entries)}.values()
    ]
    table = pa.Table.from_pylist(rows, _SCHEMA)
    return [table.slice(start, rows_per_table) for start in range(0, len(table), rows_per_table)]


def entries_of(table: pa.Table) -> Iterable[tuple[str, Entry]]:
    """The (source name, entry) pairs of a table that `as_tables` made."""
    return ((row["source"], Entry(row["id"], json.loads(row["facts"]))) for row in table.to_pylist())


def repeated(listings: Mapping[str, Sequence[Entry]]) -> pa.Table:
    """A `SAMPLES` table of the entries whose id had come before, rejected as `duplicate_id`."""
    rows = []
    for name, entries in listings.items():
        seen: set[str] = set()
        for entry in entries:
            if entry.id in seen:
                rows.append(dict.fromkeys(SAMPLES.names) | {"id": entry.id, "source": name, "reject": "duplicate_id"})
            seen.add(entry.id)
    return pa.Table.from_pylist(rows, SAMPLES)
