"""The second half of preparing: from the selected samples to the records, the manifest and the data card.

Invariant: what is written depends on the set of samples and the settings alone, not on the order in which samples
arrived or on how many workers read them.
"""

import hashlib
import json
from collections import Counter
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
from dermo_ray.data.splits import BENCHMARK, label_shares, largest_deviation
from dermo_ray.data.tables import RL_PROMPTS, TRAJECTORIES, Row, stored_samples, write
from dermo_ray.errors import UserError
from dermo_ray.records import Split
from dermo_ray.taxonomy import Taxonomy

SAMPLES_FILE = "samples.parquet"
"""The stored images with everything known about them and their split."""
REJECTS_FILE = "rejects.parquet"
"""What was read and dropped, with the reason."""


_EXAMPLES = 6
"""Pictures on the data card."""


def write_corpus(
    samples: pa.Table,
    rejects: pa.Table,
    config: PrepareConfig,
    taxonomy: Taxonomy,
    folder: Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write all of the prepared folder but its images, from `SAMPLES` and `REJECTS`; return the manifest.

    `facts` go into the manifest as they are. Raises `UserError` where no record can be made in any of the formats or
    tasks asked for.
    """
    pq.write_table(samples, folder / SAMPLES_FILE)
    pq.write_table(rejects, folder / REJECTS_FILE)
    counts = {"images": _count_images(samples), "trajectories": Tally(), "rl": Tally()}
    hashes = [_hash(samples)]
    used = samples.filter(pc.not_equal(samples["split"], BENCHMARK))
    labels = tuple(sorted(set(used["label"].drop_null().to_pylist())))
    context = formats.FormatContext(config.prompts, taxonomy, labels, config.seed, config.features_per_image)
    for split in get_args(Split):
        part = used.filter(pc.equal(used["split"], split))
        repeats = _repeats(part, config) if split == "train" and config.balance else {}
        targets = _counted(_trajectory_rows(part, config, context, repeats), counts["trajectories"], split, "format")
        hashes.append(write(targets, TRAJECTORIES, folder / "trajectories" / split))
        prompts = _counted(_rl_rows(part, config, taxonomy, repeats), counts["rl"], split, "task")
        hashes.append(write(prompts, RL_PROMPTS, folder / "rl" / split))
    _check_made(config, counts)
    shares = label_shares(samples["label"].to_pylist(), samples["split"].to_pylist())
    manifest = {
        "layout": LAYOUT_VERSION,
        "dermo_ray": __version__,
        "content_hash": hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
        "settings": config.model_dump(mode="json"),
        "read": _count(pa.chunked_array([*samples["source"].chunks, *rejects["source"].chunks])),
        "kept": _count(samples["source"]),
        "dropped": dropped(rejects),
        "labels": labels_not_found(samples, rejects, taxonomy),
        "counts": {name: tally.to_json() for name, tally in counts.items()},
        "stratification": {"labels": shares, "largest_deviation": largest_deviation(shares)},
        "examples": _examples(used),
        **facts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(data_card(manifest), encoding="utf-8")
    return manifest


def _check_made(config: PrepareConfig, counts: Mapping[str, Tally]) -> None:
    for setting, wanted, made in (("formats", config.formats, "trajectories"), ("tasks", config.tasks, "rl")):
        if wanted and not counts[made].total:
            raise UserError(
                f"no image has the annotations for {setting}={wanted}: a label allows diagnosis, diagnosis_choice_4, "
                "hierarchy and task3, a morphology allows description, morph_description, attribute_choice and task1, "
                "both together allow reasoning and morph_reasoning"
            )


def _repeats(part: pa.Table, config: PrepareConfig) -> dict[str, int]:
    labels = dict(zip(part["id"].to_pylist(), part["label"].to_pylist(), strict=True))
    return copies(labels, config.max_repeat)


def _trajectory_rows(
    part: pa.Table, config: PrepareConfig, context: formats.FormatContext, repeats: Mapping[str, int]
) -> Iterator[Row]:
    """Rows by format, then by sample."""
    for name in sorted(set(config.formats)):
        for sample in stored_samples(part):
            for record in formats.trajectories(sample, name, context):
                yield from _repeated(record.model_dump(by_alias=True) | _facts(sample), repeats.get(sample.id, 1))


def _rl_rows(part: pa.Table, config: PrepareConfig, taxonomy: Taxonomy, repeats: Mapping[str, int]) -> Iterator[Row]:
    """Rows by task, then by sample."""
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


def _examples(samples: pa.Table) -> list[dict[str, str]]:
    """An image of each of the most frequent labels, for the card."""
    first: dict[str, dict[str, str]] = {}
    labels = samples["label"].to_pylist()
    for label, image in zip(labels, samples["image"].to_pylist(), strict=True):
        if label is not None:
            first.setdefault(label, {"label": label, "image": image})
    frequent = Counter(label for label in labels if label is not None).most_common(_EXAMPLES)
    return [first[label] for label, _ in frequent]


def _hash(samples: pa.Table) -> str:
    """A hash of every sample row; images count in, as their names are hashes of their content."""
    digest = hashlib.sha256()
    for batch in samples.to_batches():
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
