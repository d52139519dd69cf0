"""The first half of preparing: one entry of a source becomes one row, and its image a stored file.

Invariants: `ingest` returns a row for every entry, usable or rejected, and reading the same entry again gives the same
row, wherever that happens. A block of rows is stored after its images, under a key of everything it depends on, so
that a block that is there need not be read again, unless files could not be read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermo_ray.config.prepare import ImageSettings
from dermo_ray.config.sources import SourceConfig
from dermo_ray.data import images
from dermo_ray.data.duplicates import perceptual_hash
from dermo_ray.data.samples import UNREADABLE, Entry, Reject
from dermo_ray.data.sources import Source
from dermo_ray.data.tables import INGESTED
from dermo_ray.morphology import Morphology
from dermo_ray.staging import staged_file

IMAGES = "images"
"""The folder of the stored images, inside a prepared folder and inside a cache."""
BLOCKS = "rows"
"""The folder of the stored blocks, inside a cache."""

VERSION = 6
"""Goes up when the same entry gives another row or another image than before."""


def ingest(entry: Entry, name: str, source: Source, settings: ImageSettings, folder: Path) -> dict[str, Any]:
    """The row of `INGESTED` for `entry` of the source called `name`; its image is stored under `folder`/images."""
    row: dict[str, Any] = dict.fromkeys(INGESTED.names) | {"id": entry.id, "source": name}
    try:
        sample = source.sample(entry)
        row |= {
            "group": sample.group,
            "modality": sample.modality,
            "raw_label": sample.raw_label,
            "morphology": _as_json(sample.morphology),
            "annotation": _as_json(sample.annotation or sample.morphology),
            "skin_tone": sample.skin_tone,
        }
        data = images.read(sample.image)
        row["content"] = images.digest(data)
        image = images.load(data, settings)
        row["perceptual_hash"] = perceptual_hash(image)
        row["image"] = f"{IMAGES}/{images.store(image, folder / IMAGES, settings)}"
    except Reject as verdict:
        row["reject"] = verdict.reason
    return row


def block_key(listing: pa.Table, source: SourceConfig, settings: ImageSettings) -> str:
    """The key of the rows that `listing`, entries of one source, becomes: a hash of all that they depend on.

    Folders don't count in: entries hold paths relative to them, and the size of every file. Nor do a run's seed and the
    number of phantoms: entries hold the seed of each.
    """
    options = source.model_dump(mode="json", exclude={"root", "file", "skincon", "use", "count"})
    facts = [VERSION, options, settings.model_dump(mode="json"), listing.to_pylist()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def block_path(cache: Path, key: str) -> Path:
    """Where the rows called `key` are stored."""
    return cache / BLOCKS / key[:2] / f"{key}.parquet"


def is_stored(path: Path) -> bool:
    """Whether the rows are there, of files that could all be read: permissions and disks are mended without a trace."""
    return path.exists() and not pc.any(pc.equal(pq.read_table(path, columns=["reject"])["reject"], UNREADABLE)).as_py()


def store_block(rows: list[dict[str, Any]], path: Path) -> None:
    """Store `INGESTED` rows; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, INGESTED), aside)


def _as_json(morphology: Morphology | None) -> str | None:
    return None if morphology is None else json.dumps(morphology.to_json())
