"""Items of the benchmark from a prepared folder, phantoms included, for every task.

Items are what the training formats ask about held-out images, with the truth in place of what annotators wrote.
Held-out are the images of one split and those of benchmark sources, which make no training record at all.

| tasks | from |
| --- | --- |
| t1.1 to t1.4, t3.1, t3.2 | the split and the benchmark sources |
| t2.1 to t2.3 | the split: labels and sources as in training |
| t2.4 | the benchmark sources, each a data set of its own, with wrong options from its own labels |
| t4 | images with a known skin tone: of the benchmark sources where they have some, else of the split |

Invariants: an item is a function of its sample, the labels it is told apart from, and the seed; no machine-made
morphology is a reference, and a machine-made text only where no morphology is known, which `Facts.annotator` then says.
Where neither is there, the reference of a reasoning task (t3.1, t3.2) is the diagnosis alone.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermo_ray.bench.tasks.conversation import from_conversation
from dermo_ray.bench.tasks.fairness import skin_tone_group
from dermo_ray.bench.tasks.items import BenchItem, Facts, Items, TaskId, gather
from dermo_ray.bench.tasks.registry import TASKS
from dermo_ray.data.corpus import SAMPLES_FILE
from dermo_ray.data.formats import FormatContext, trajectories
from dermo_ray.data.formats.reasoning import diagnosis_alone
from dermo_ray.data.manifest import LAYOUT_VERSION, read_manifest
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.splits import BENCHMARK, uniform
from dermo_ray.data.tables import stored_samples
from dermo_ray.errors import UserError
from dermo_ray.morphology import SKINCON_FEATURES, Schema
from dermo_ray.prompts import Style
from dermo_ray.records import Format, Split, Trajectory
from dermo_ray.taxonomy import Taxonomy

_FORMATS: Mapping[TaskId, Format] = {
    "t1.1": "description",
    "t1.2": "morph_description",
    "t1.3": "attribute_choice",
    "t1.4": "attribute_choice",
    "t2.1": "diagnosis_choice_4",
    "t2.2": "diagnosis_choice_25",
    "t2.3": "hierarchy",
    "t2.4": "diagnosis_choice_4",
    "t3.1": "reasoning",
    "t3.2": "morph_reasoning",
    "t4": "diagnosis_choice_4",
}
_SCHEMAS: Mapping[TaskId, Schema] = {"t1.3": "derm7pt", "t1.4": "skincon"}
_IN_DISTRIBUTION = ("t2.1", "t2.2", "t2.3")
_OPTIONS: Mapping[Format, int] = {"diagnosis_choice_4": 4, "diagnosis_choice_25": 25}


def build(
    prepared: Path,
    taxonomy: Taxonomy,
    tasks: Iterable[TaskId] = tuple(TASKS),
    *,
    split: Split = "test",
    sources: Collection[str] | None = None,
    style: Style | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> dict[TaskId, Items]:
    """The items of each of `tasks` from a folder that `jobs.prepare` wrote, in the order of their samples.

    `sources` keeps the images of these data sets alone; wrong options still come from the labels of all that a model
    was trained on. `style` is the wording of the questions, by default that of the folder's own records; `limit` keeps
    at most so many items of a task (of each data set of t2.4), drawn by `seed`. A task that the data give no item for
    comes out empty.

    Left out: not_annotated (the sample lacks what the task asks about), no_skin_tone.

    Raises `UserError` where `prepared` is no prepared folder of this version, or has no held-out image of `sources`.
    """
    manifest = read_manifest(prepared)
    if manifest is None:
        raise UserError(f"{prepared} is no prepared folder: run jobs.prepare with out={prepared} first")
    if manifest["layout"] != LAYOUT_VERSION:
        raise UserError(
            f"{prepared} was written by another version of jobs.prepare: prepare it again with replace=true"
        )
    held_out = _held_out(pq.read_table(prepared / SAMPLES_FILE), split)
    if sources is not None:
        held_out = _of_sources(held_out, sources, prepared)
    context = FormatContext(
        style or manifest["settings"]["prompts"], taxonomy, seed=seed, features_per_image=len(SKINCON_FEATURES)
    )
    return {task: limited(_items(task, held_out, context, prepared.absolute()), limit, seed) for task in tasks}


@dataclass(frozen=True)
class _HeldOut:
    """The samples that may be asked about, and the labels that they are to be told apart from."""

    split: list[StoredSample]
    benchmark: list[StoredSample]
    labels: tuple[str, ...]
    """Of all sources but the benchmarks."""
    benchmark_labels: Mapping[str, tuple[str, ...]]
    """Of each benchmark source."""

    def of(self, task: TaskId) -> list[StoredSample]:
        """The samples for a task."""
        if task in _IN_DISTRIBUTION:
            return self.split
        if task == "t2.4":
            return self.benchmark
        if task == "t4":
            return self.benchmark if any(sample.skin_tone for sample in self.benchmark) else self.split
        return [*self.split, *self.benchmark]

    def labels_beside(self, sample: StoredSample) -> tuple[str, ...]:
        """The labels among which that of a sample is to be found."""
        return self.benchmark_labels.get(sample.source, self.labels)


def _held_out(table: pa.Table, split: Split) -> _HeldOut:
    used = pc.is_in(table["split"], pa.array(get_args(Split)))
    benchmark = [_truthful(sample) for sample in stored_samples(table.filter(pc.equal(table["split"], BENCHMARK)))]
    sources: dict[str, set[str]] = {}
    for sample in benchmark:
        sources.setdefault(sample.source, set()).update([sample.label] if sample.label else [])
    return _HeldOut(
        split=[_truthful(sample) for sample in stored_samples(table.filter(pc.equal(table["split"], split)))],
        benchmark=benchmark,
        labels=tuple(sorted(set(table.filter(used)["label"].drop_null().to_pylist()))),
        benchmark_labels={source: tuple(sorted(labels)) for source, labels in sources.items()},
    )


def _of_sources(held_out: _HeldOut, sources: Collection[str], prepared: Path) -> _HeldOut:
    there = sorted({sample.source for sample in (*held_out.split, *held_out.benchmark)})
    if missing := sorted(set(sources) - set(there)):
        raise UserError(f"{prepared} has no held-out image of {', '.join(missing)}; it has those of {', '.join(there)}")
    return replace(
        held_out,
        split=[sample for sample in held_out.split if sample.source in sources],
        benchmark=[sample for sample in held_out.benchmark if sample.source in sources],
    )


def _truthful(sample: StoredSample) -> StoredSample:
    """The sample with its true morphology as the annotation, and in place of what a teacher wrote about it."""
    if sample.morphology is None:
        return replace(sample, annotation=None)
    return replace(sample, annotation=sample.morphology, description=None, reasoning=None, annotator=None)


def _items(task: TaskId, held_out: _HeldOut, context: FormatContext, root: Path) -> Items:
    records: list[tuple[StoredSample, Trajectory]] = []
    left_out = {"no_skin_tone": 0, "not_annotated": 0}
    for sample in held_out.of(task):
        if task == "t4" and sample.skin_tone is None:
            left_out["no_skin_tone"] += 1
            continue
        asked = _records(task, sample, held_out.labels_beside(sample), context)
        left_out["not_annotated"] += not asked
        records += [(sample, record) for record in asked]

    def make(pair: tuple[StoredSample, Trajectory]) -> BenchItem:
        sample, record = pair
        facts = Facts(
            label=sample.label,
            modality=sample.modality,
            morphology=None if sample.morphology is None else sample.morphology.to_json(),
            skin_tone=skin_tone_group(sample.skin_tone),
            subset=sample.source if task == "t2.4" else None,
            group=sample.group,
            source_id=record.id,
            annotator=record.annotator,
        )
        return from_conversation(task, record.id, [str(root / sample.image)], record.conversations, facts)

    found = gather(records, make)
    return Items(found.items, found.left_out | {reason: count for reason, count in left_out.items() if count})


def _records(task: TaskId, sample: StoredSample, labels: tuple[str, ...], context: FormatContext) -> list[Trajectory]:
    if task in _SCHEMAS and (sample.annotation is None or sample.annotation.schema != _SCHEMAS[task]):
        return []
    name = _FORMATS[task]
    options = _with_fillers(labels, _OPTIONS.get(name, 0), context.taxonomy, context.seed)
    asked = trajectories(sample, name, replace(context, labels=options))
    if not asked and (name == "reasoning" or name == "morph_reasoning"):
        return diagnosis_alone(sample, name, context)
    return asked


@lru_cache(maxsize=64)
def _with_fillers(labels: tuple[str, ...], count: int, taxonomy: Taxonomy, seed: int) -> tuple[str, ...]:
    """`labels`, and where these are fewer than `count` others to make it up, drawn by `seed`.

    No filler stands beside one of the labels in the tree, where it could mean the same or a group that holds it.
    """
    if len(labels) >= count:
        return labels
    taken = {tuple(taxonomy.path(label)) for label in labels}
    others = [leaf.label for leaf in taxonomy.leaves if leaf.path not in taken]
    return (*labels, *Random(seed).sample(others, min(count - len(labels), len(others))))


def limited(found: Items, limit: int | None, seed: int) -> Items:
    """At most `limit` items of each data set in `found`, drawn by `seed`; all of them where it is None."""
    if limit is None:
        return found
    places: dict[str | None, list[str]] = {}
    for item in found.items:
        places.setdefault(item.facts.subset, []).append(item.id)
    kept = {name for ids in places.values() for name in sorted(ids, key=lambda i: uniform(f"{seed}/{i}"))[:limit]}
    return Items([item for item in found.items if item.id in kept], found.left_out, found.absent)
