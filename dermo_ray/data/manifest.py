"""What a prepared folder says about itself: what was read, kept and dropped, from which settings.

Invariant: kept + dropped = read, for every source; two folders with one content hash hold the same records and images.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.data.samples import Entry

MANIFEST = "manifest.json"
LAYOUT_VERSION = 1
"""Goes up when the files or their columns change, so that an older folder is not taken for a current one."""


@dataclass
class Tally:
    """Counts of records along several dimensions: {dimension: {value: count}}."""

    total: int = 0
    by: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, **values: object) -> None:
        """Count one record; a value of None counts as "none"."""
        self.total += 1
        for dimension, value in values.items():
            self.by.setdefault(dimension, Counter())[str("none" if value is None else value)] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts with sorted keys."""
        return {"total": self.total} | {name: dict(sorted(counts.items())) for name, counts in self.by.items()}


def settings_key(config: PrepareConfig, entries: Mapping[str, Sequence[Entry]]) -> str:
    """A hash of everything the corpus depends on: the settings without paths, and the listing of every source."""
    settings = config.model_dump(mode="json", exclude={"out": True, "root": True, "sources": {"__all__": {"root"}}})
    digest = hashlib.sha256(json.dumps([LAYOUT_VERSION, settings], sort_keys=True).encode())
    for name, listing in entries.items():
        digest.update(name.encode())
        for entry in listing:
            digest.update(json.dumps([entry.id, entry.facts], sort_keys=True).encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared folder, None where there is none."""
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def dropped(samples: pa.Table) -> dict[str, dict[str, int]]:
    """{source: {reason: count}} of the rejected rows of a `SAMPLES` table."""
    counts: dict[str, Counter[str]] = {}
    for source, reason in _pairs(samples, "source", "reject"):
        if reason is not None:
            counts.setdefault(source, Counter())[reason] += 1
    return {source: dict(sorted(reasons.items())) for source, reasons in sorted(counts.items())}


def labels_not_found(samples: pa.Table) -> dict[str, Any]:
    """How many rows have no label, and the labels that the taxonomy does not know with their counts."""
    rows = [(raw, label, reject) for raw, label, reject in _pairs(samples, "raw_label", "label", "reject")]
    unknown = Counter(raw for raw, label, _ in rows if raw is not None and label is None)
    missing = sum(raw is None and reject in (None, "missing_label") for raw, _, reject in rows)
    return {"missing": missing, "unknown": dict(sorted(unknown.items()))}


def _pairs(table: pa.Table, *columns: str) -> Any:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
