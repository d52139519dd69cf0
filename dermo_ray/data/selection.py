"""Which of the images that were read make records, under which label and in which split.

Invariants: every row ends up as a sample or as a reject with its reason; the outcome depends on the set of rows and the
settings alone, not on the order in which rows arrived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.data.duplicates import components, judge, same_files
from dermo_ray.data.splits import assign, split_keys
from dermo_ray.data.tables import REJECTS, SAMPLES
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy


@dataclass(frozen=True)
class Selection:
    """What became of the rows."""

    samples: pa.Table
    """`SAMPLES`, sorted by id; those of benchmarks are in the split "benchmark"."""
    rejects: pa.Table
    """`REJECTS`, sorted by id."""


def select(rows: pa.Table, config: PrepareConfig, taxonomy: Taxonomy) -> Selection:
    """Label, de-duplicate and split `rows` (`INGESTED`).

    Raises `UserError` where too few samples are left, or none falls into a split that is to have some.
    """
    rows = _ranked(rows, [source.title for source in config.mixture])
    labels = _canonical(rows["raw_label"], taxonomy)
    rows = rows.append_column("label", pa.array(labels, pa.string()))
    benchmark_titles = {source.title for source in config.mixture if source.use == "benchmark"}
    rows = _refuse_unannotated(rows, benchmark_titles, config)
    usable = rows.filter(pc.is_null(rows["reject"]))
    refused = [rows.filter(pc.is_valid(rows["reject"]))]

    benchmark = np.array([source in benchmark_titles for source in usable["source"].to_pylist()], bool)
    distance, keep = config.duplicates.distance, config.duplicates.keep
    if distance is None:  # copies stay, but one stored file is never on two sides
        component, keep = same_files(usable["image"].to_pylist()), "all"
    else:
        component = components(usable["perceptual_hash"].to_numpy(), distance)
    annotated = usable["morphology"].is_valid().to_numpy()
    verdicts = judge(component, benchmark=benchmark, annotated=annotated, keep=keep)
    keys = split_keys(component, usable["group"].to_pylist(), usable["content"].to_pylist(), benchmark)
    splits = assign(keys, benchmark, config.split, config.seed)
    # a photograph of a lesion of which a benchmark has another one would give that lesion away
    measured = {key for key, aside in zip(keys, benchmark, strict=True) if aside}
    reasons = [
        "benchmark_overlap" if key in measured and not aside else reason
        for reason, key, aside in zip(verdicts.reasons, keys, benchmark, strict=True)
    ]
    ids = usable["id"].to_pylist()
    same_as = [None if index == place else ids[index] for place, index in enumerate(verdicts.instead.tolist())]
    usable = (
        usable.drop_columns(["reject", "group"])
        .append_column("group", pa.array(keys, pa.string()))
        .append_column("split", pa.array(splits, pa.string()))
        .append_column("reject", pa.array(reasons, pa.string()))
        .append_column("same_as", pa.array(same_as, pa.string()))
    )
    kept = pc.is_null(usable["reject"])
    refused.append(usable.filter(pc.invert(kept)))
    rejects = pa.concat_tables([_as(table, REJECTS) for table in refused])
    samples = _as(usable.filter(kept), SAMPLES)
    _check_enough(samples, rejects, config)
    return Selection(samples.sort_by("id"), rejects.sort_by([("id", "ascending"), ("reject", "ascending")]))


def _ranked(rows: pa.Table, titles: Sequence[str]) -> pa.Table:
    """The rows by the place of their source in the settings, then by id."""
    place = {title: index for index, title in enumerate(titles)}
    ranks = pa.array([place[source] for source in rows["source"].to_pylist()], pa.int32())
    order = [("rank", "ascending"), ("id", "ascending"), ("reject", "ascending")]
    return rows.append_column("rank", ranks).sort_by(order).drop_columns("rank")


def _canonical(raw_labels: pa.ChunkedArray, taxonomy: Taxonomy) -> list[str | None]:
    known: Mapping[str | None, str | None] = {
        raw: None if raw is None else taxonomy.canonical(raw) for raw in raw_labels.unique().to_pylist()
    }
    return [known[raw] for raw in raw_labels.to_pylist()]


def _refuse_unannotated(rows: pa.Table, benchmark_titles: set[str], config: PrepareConfig) -> pa.Table:
    """Refuse what no record can be made of: neither label nor morphology, nor a teacher to give one.

    Images of benchmarks stay: they are there to be compared with.
    """
    teaches = config.teacher is not None and "morphology" in config.teacher.fields

    def verdict(source: str, raw: str | None, label: str | None, morphology: str | None) -> str | None:
        if source in benchmark_titles or teaches or label is not None or morphology is not None:
            return None
        return "missing_label" if raw is None else "unknown_label"

    columns = (rows[name].to_pylist() for name in ("reject", "source", "raw_label", "label", "morphology"))
    reasons = [reject or verdict(*facts) for reject, *facts in zip(*columns, strict=True)]
    return rows.set_column(rows.schema.get_field_index("reject"), "reject", pa.array(reasons, pa.string()))


def _check_enough(samples: pa.Table, rejects: pa.Table, config: PrepareConfig) -> None:
    splits = samples["split"].to_pylist()
    trained_on = sum(split != "benchmark" for split in splits)
    if trained_on < config.min_images:
        reasons = ", ".join(f"{entry['counts']} {entry['values']}" for entry in _counts(rejects["reject"]))
        raise UserError(
            f"only {trained_on} of {len(samples) + len(rejects)} images are usable, fewer than "
            f"min_images={config.min_images}; dropped: {reasons or 'none'}"
        )
    shares = {"train": 1.0, "val": config.split.val, "test": config.split.test}
    for split, share in shares.items():
        if share > 0 and split not in splits:
            raise UserError(f"no image falls into {split}: read more, or change the shares split.val and split.test")


def _counts(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    return sorted(column.value_counts().to_pylist(), key=lambda entry: str(entry["values"]))


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`; those that the table lacks are null."""
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(columns, schema=schema)
