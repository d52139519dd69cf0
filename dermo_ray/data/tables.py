"""The Parquet files of a prepared folder: their columns, and writing them in a fixed order.

Invariant: a table's content hash depends on its rows and their order alone, not on how Parquet encoded them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.annotate import Annotation
from dermo_ray.morphology import Morphology

Row = dict[str, Any]

_TEXT = pa.string()

INGESTED = pa.schema(
    {
        "id": _TEXT,
        "source": _TEXT,
        "group": _TEXT,
        "modality": _TEXT,
        "content": _TEXT,
        "image": _TEXT,
        "perceptual_hash": pa.uint64(),
        "raw_label": _TEXT,
        "morphology": _TEXT,
        "annotation": _TEXT,
        "skin_tone": pa.int8(),
        "reject": _TEXT,
    }
)
"""One row for every entry that was read.

`content` is a hash of the source's bytes, or of the pixels where it draws them; `image` is named by what is stored.
`morphology` and `annotation` are JSON in the released shape; `reject` is the reason why the entry can't be used, null
for those that can."""

SAMPLES = pa.schema(
    {
        "id": _TEXT,
        "source": _TEXT,
        "group": _TEXT,
        "split": _TEXT,
        "modality": _TEXT,
        "image": _TEXT,
        "perceptual_hash": pa.uint64(),
        "raw_label": _TEXT,
        "label": _TEXT,
        "morphology": _TEXT,
        "annotation": _TEXT,
        "description": _TEXT,
        "reasoning": _TEXT,
        "annotator": _TEXT,
        "skin_tone": pa.int8(),
    }
)
"""One row for every image that is used. `group` is what decides the split; `description`, `reasoning` and `annotator`
come from a teacher."""

REJECTS = pa.schema(
    {"id": _TEXT, "source": _TEXT, "group": _TEXT, "raw_label": _TEXT, "reject": _TEXT, "same_as": _TEXT}
)
"""One row for every entry that was read and dropped; `same_as` is the id of the image that a near-duplicate equals."""

TRAJECTORIES = pa.schema(
    {
        "id": _TEXT,
        "image": _TEXT,
        "format": _TEXT,
        "source": _TEXT,
        "group": _TEXT,
        "label": _TEXT,
        "modality": _TEXT,
        "annotator": _TEXT,
        "conversations": pa.list_(pa.struct({"from": _TEXT, "value": _TEXT})),
    }
)

RL_PROMPTS = pa.schema(
    {
        "id": _TEXT,
        "image": _TEXT,
        "source": _TEXT,
        "group": _TEXT,
        "label": _TEXT,
        "modality": _TEXT,
        "prompt": _TEXT,
        "ground_truth": _TEXT,
    }
)
"""`ground_truth` is a `GroundTruth` as JSON."""

_ROWS_PER_FILE = 50_000
_ROWS_PER_GROUP = 2_000


def write(rows: Iterable[Row], schema: pa.Schema, folder: Path) -> str:
    """Write `rows` to `folder/part-00000.parquet` and so on, in the order given; return their content hash.

    Without rows nothing is written: `datasets` refuses to load an empty table. Memory does not grow with the rows.
    """
    digest = hashlib.sha256()
    remaining = iter(rows)
    number = 0
    group = list(islice(remaining, _ROWS_PER_GROUP))
    while group:
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema) as writer:
            written = 0
            while group and written < _ROWS_PER_FILE:
                for row in group:
                    digest.update(json.dumps(row, sort_keys=True).encode())
                writer.write_table(pa.Table.from_pylist(group, schema))
                written += len(group)
                group = list(islice(remaining, _ROWS_PER_GROUP))
        number += 1
    return digest.hexdigest()


def stored_samples(table: pa.Table) -> Iterator[StoredSample]:
    """The samples of a `SAMPLES` table, in its order."""
    for batch in table.to_batches(max_chunksize=_ROWS_PER_GROUP):
        for row in batch.to_pylist():
            yield StoredSample(
                id=row["id"],
                source=row["source"],
                group=row["group"],
                modality=row["modality"],
                image=row["image"],
                label=row["label"],
                morphology=_read_morphology(row["morphology"]),
                annotation=_read_morphology(row["annotation"]),
                skin_tone=row["skin_tone"],
                description=row["description"],
                reasoning=row["reasoning"],
                annotator=row["annotator"],
            )


def _read_morphology(text: str | None) -> Morphology | None:
    return None if text is None else Morphology.from_json(json.loads(text))


def with_annotations(samples: pa.Table, annotations: Mapping[str, Annotation]) -> pa.Table:
    """`SAMPLES` with what a teacher wrote, by sample id.

    A machine-made morphology becomes the `annotation` alone: targets may repeat it, rewards must not take it for true.
    """
    columns = {name: samples[name].to_pylist() for name in ("annotation", "description", "reasoning", "annotator")}
    for index, sample_id in enumerate(samples["id"].to_pylist()):
        if (added := annotations.get(sample_id)) is None:
            continue
        if added.morphology is not None:
            columns["annotation"][index] = json.dumps(added.morphology.to_json())
        columns["description"][index] = added.description
        columns["reasoning"][index] = added.reasoning
        made_before = json.loads(columns["annotator"][index] or "{}")
        columns["annotator"][index] = json.dumps(made_before | json.loads(added.annotator), sort_keys=True)
    for name, values in columns.items():
        samples = samples.set_column(samples.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return samples
