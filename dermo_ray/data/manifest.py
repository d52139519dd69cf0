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
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data import ingest
from dermo_ray.data.drafts import annotator_of
from dermo_ray.data.samples import UNREADABLE, Entry
from dermo_ray.taxonomy import Taxonomy

MANIFEST = "manifest.json"
LAYOUT_VERSION = 2
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


def settings_key(config: PrepareConfig, entries: Mapping[str, Sequence[Entry]], taxonomy: Taxonomy) -> str:
    """A hash of everything the corpus depends on: the settings without paths, the listing of every source, the tree.

    Where a teacher is asked, how persistently and at what cost don't count in.
    """
    paths = {"root", "file", "skincon"}
    elsewhere = {"out", "cache", "concepts", "taxonomy", "teacher"}
    no_matter = {"export", "dry_run", "replace", "unmapped", "min_images"}
    settings = config.model_dump(
        mode="json",
        exclude={**dict.fromkeys(paths | elsewhere | no_matter, True), "sources": {"__all__": paths}},
    )
    tree = [[leaf.label, leaf.path, leaf.synonyms, leaf.covers] for leaf in taxonomy.leaves]
    versions = [LAYOUT_VERSION, ingest.VERSION]
    digest = hashlib.sha256(json.dumps([versions, settings, tree, _teacher(config)], sort_keys=True).encode())
    if config.concepts is not None:
        digest.update(annotator_of(config.concepts).encode())
    for title, listing in entries.items():
        digest.update(title.encode())
        for entry in listing:
            digest.update(json.dumps([entry.id, entry.facts], sort_keys=True).encode())
    return digest.hexdigest()


def _teacher(config: PrepareConfig) -> dict[str, Any] | None:
    """What a teacher's answers and what is taken from them depend on."""
    if config.teacher is None:
        return None
    asked = {"fields", "max_side", "temperature", "max_tokens", "filters"}
    facts = config.teacher.model_dump(mode="json", include=asked) | {"model": config.teacher.model}
    if config.teacher.endpoint is not None:
        return facts | {"extra_body": config.teacher.endpoint.extra_body}
    assert config.teacher.pool is not None  # the settings see to it
    return facts | {"dtype": config.teacher.pool.model.dtype}


def unfinished(manifest: Mapping[str, Any], teacher: TeacherSettings | None) -> str | None:
    """What a run with the same settings could add to a prepared folder, in words; None where there is nothing."""
    asked = manifest.get("teacher", {"failed": {}, "over_budget": 0})
    questions = sum(asked["failed"].values()) + asked["over_budget"]
    if questions and teacher is not None and teacher.budget_requests != 0:
        return f"{questions:,} questions have no answer of the teacher's yet"
    files = sum(reasons.get(UNREADABLE, 0) for reasons in manifest["dropped"].values())
    return f"{files:,} files could not be read" if files else None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared folder, None where there is none."""
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def dropped(rejects: pa.Table) -> dict[str, dict[str, int]]:
    """{source: {reason: count}} of a `REJECTS` table."""
    counts: dict[str, Counter[str]] = {}
    for source, reason in zip(rejects["source"].to_pylist(), rejects["reject"].to_pylist(), strict=True):
        counts.setdefault(source, Counter())[reason] += 1
    return {source: dict(sorted(reasons.items())) for source, reasons in sorted(counts.items())}


def labels_not_found(samples: pa.Table, rejects: pa.Table, taxonomy: Taxonomy) -> dict[str, Any]:
    """How many images have no label, and the labels that the taxonomy does not know."""
    refused = sum(reason == "missing_label" for reason in rejects["reject"].to_pylist())
    labels = Counter(samples["raw_label"].drop_null().to_pylist() + rejects["raw_label"].drop_null().to_pylist())
    return {"missing": samples["raw_label"].null_count + refused, "unknown": unknown_labels(labels, taxonomy)}


def unknown_labels(labels: Counter[str], taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """{label: its count and the nearest labels of the taxonomy}, the most frequent first, of those not in it."""
    unknown = [(label, count) for label, count in labels.items() if taxonomy.canonical(label) is None]
    return {
        label: {"count": count, "nearest": taxonomy.nearest(label)}
        for label, count in sorted(unknown, key=lambda entry: (-entry[1], entry[0]))
    }
