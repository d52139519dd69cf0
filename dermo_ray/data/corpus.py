"""The second half of preparing: from the table of stored samples to the records, the manifest and the data card.

Invariant: what is written depends on the set of samples and the settings alone, not on the order in which samples
arrived or on how many workers read them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermo_ray import __version__
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.data import formats
from dermo_ray.data.balance import copies
from dermo_ray.data.card import data_card
from dermo_ray.data.manifest import LAYOUT_VERSION, MANIFEST, Tally, dropped, labels_not_found
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.splits import split_of
from dermo_ray.data.tables import RL_PROMPTS, TRAJECTORIES, Row, stored_samples, write
from dermo_ray.errors import UserError
from dermo_ray.records import Split
from dermo_ray.taxonomy import Taxonomy

SAMPLES_FILE = "samples.parquet"
"""The stored images with everything known about them and their split."""
REJECTS_FILE = "rejects.parquet"
"""What was read and dropped, with the reason."""


def write_corpus(
    rows: pa.Table, config: PrepareConfig, key: str, licences: Mapping[str, str], taxonomy: Taxonomy, folder: Path
) -> dict[str, Any]:
    """Write all of the prepared folder but its images, from `rows`, a `SAMPLES` table; return the manifest.

    Raises `UserError` where too few samples are usable, none falls into a split, or no
    record can be made in any of the formats or tasks asked for.
    """
    samples, rejects = _divide(rows, config)
    pq.write_table(samples, folder / SAMPLES_FILE)
    pq.write_table(rejects, folder / REJECTS_FILE)
    counts = {"images": _count_images(samples), "trajectories": Tally(), "rl": Tally()}
    hashes = [_hash(samples)]
    for split in get_args(Split):
        part = samples.filter(pc.equal(samples["split"], split))
        repeats = _repeats(part, config) if split == "train" and config.balance else {}
        targets = _counted(_trajectory_rows(part, config, repeats), counts["trajectories"], split, "format")
        hashes.append(write(targets, TRAJECTORIES, folder / "trajectories" / split))
        prompts = _counted(_rl_rows(part, config, repeats, taxonomy), counts["rl"], split, "task")
        hashes.append(write(prompts, RL_PROMPTS, folder / "rl" / split))
    _check_made(config, counts)
    manifest = {
        "layout": LAYOUT_VERSION,
        "dermo_ray": __version__,
        "settings_key": key,
        "content_hash": hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
        "settings": config.model_dump(mode="json"),
        "licences": dict(licences),
        "read": _count(rows["source"]),
        "kept": _count(samples["source"]),
        "dropped": dropped(rejects),
        "labels": labels_not_found(rows),
        "counts": {name: tally.to_json() for name, tally in counts.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(data_card(manifest), encoding="utf-8")
    return manifest


def _divide(rows: pa.Table, config: PrepareConfig) -> tuple[pa.Table, pa.Table]:
    """The usable samples with their split, and the rejects, each sorted by id."""
    rows = rows.sort_by([("id", "ascending"), ("reject", "ascending")])
    usable = pc.is_null(rows["reject"])
    samples = rows.filter(usable).drop_columns("reject")
    rejects = rows.filter(pc.invert(usable)).select(["id", "source", "group", "raw_label", "reject"])
    splits = [split_of(group, config.split, config.seed) for group in samples["group"].to_pylist()]
    if len(samples) < config.min_images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _count(rejects["reject"]).items())
        raise UserError(
            f"only {len(samples)} of {len(rows)} images are usable, fewer than min_images={config.min_images}; "
            f"dropped: {reasons or 'none'}"
        )
    shares = {"train": 1.0, "val": config.split.val, "test": config.split.test}
    for split, share in shares.items():
        if share > 0 and split not in splits:
            raise UserError(f"no image falls into {split}: read more, or change the shares split.val and split.test")
    return samples.append_column("split", pa.array(splits, pa.string())), rejects


def _check_made(config: PrepareConfig, counts: Mapping[str, Tally]) -> None:
    for setting, wanted, made in (("formats", config.formats, "trajectories"), ("tasks", config.tasks, "rl")):
        if wanted and not counts[made].total:
            raise UserError(
                f"no image has the annotations for {setting}={wanted}: a label allows diagnosis and task3, "
                "a morphology allows morph_description and task1, both together allow morph_reasoning"
            )


def _repeats(part: pa.Table, config: PrepareConfig) -> dict[str, int]:
    labels = dict(zip(part["id"].to_pylist(), part["label"].to_pylist(), strict=True))
    return copies(labels, config.max_repeat)


def _trajectory_rows(part: pa.Table, config: PrepareConfig, repeats: Mapping[str, int]) -> Iterator[Row]:
    """Rows sorted by id, which begins with the format."""
    for name in sorted(set(config.formats)):
        for sample in stored_samples(part):
            record = formats.trajectory(sample, name, config.prompts)
            if record is not None:
                yield from _repeated(record.model_dump(by_alias=True) | _facts(sample), repeats.get(sample.id, 1))


def _rl_rows(part: pa.Table, config: PrepareConfig, repeats: Mapping[str, int], taxonomy: Taxonomy) -> Iterator[Row]:
    """Rows sorted by id, which begins with the task."""
    for task in sorted(set(config.tasks)):
        for sample in stored_samples(part):
            record = formats.rl_prompt(sample, task, config.prompts, taxonomy)
            if record is not None:
                truth = {"ground_truth": record.ground_truth.model_dump_json(exclude_none=True)}
                yield from _repeated(record.model_dump() | _facts(sample) | truth, repeats.get(sample.id, 1))


def _facts(sample: StoredSample) -> Row:
    return {"label": sample.label, "modality": sample.modality}


def _repeated(row: Row, times: int) -> Iterator[Row]:
    """The row `times` times, each with an id of its own; "#" sorts before what else ids are made of."""
    yield row
    for repetition in range(1, times):
        yield row | {"id": f"{row['id']}#{repetition}"}


def _counted(rows: Iterable[Row], tally: Tally, split: Split, kind: str) -> Iterator[Row]:
    for row in rows:
        value = json.loads(row["ground_truth"])["task"] if kind == "task" else row[kind]
        tally.add(source=row["source"], split=split, **{kind: value}, label=row["label"])
        yield row


def _count_images(samples: pa.Table) -> Tally:
    tally = Tally()
    dimensions = ("source", "split", "modality", "label", "skin_tone")
    for values in zip(*(samples[name].to_pylist() for name in dimensions), strict=True):
        tally.add(**dict(zip(dimensions, values, strict=True)))
    return tally


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted((entry["values"], entry["counts"]) for entry in column.value_counts().to_pylist()))


def _hash(samples: pa.Table) -> str:
    """A hash of every sample row; images count in, as their names are hashes of their content."""
    digest = hashlib.sha256()
    for batch in samples.to_batches():
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
