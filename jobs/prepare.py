"""Reads data sets and writes the prepared folder: images, training conversations and reinforcement-learning prompts.

One source: `source=ham10000 root=DIR out=DIR`, or `source=phantoms count=1000 out=DIR`. Several: a settings file with
`sources`. Images are read, checked and stored by Ray Data on every core of the cluster; `out` and its cache must lie on
a file system that all of its nodes share. Memory does not grow with the images: only their rows come back.
An unchanged run does no work, but where questions to a teacher have no answer yet or files could not be read; one that
was cut off, or whose settings changed, reads again only what it has to.
"""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
import rich
import rich.markup
import rich.table

from actors.annotator import pool_teacher
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.sources import SourceConfig
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.corpus import write_corpus
from dermo_ray.data.drafts import annotator_of, drafts
from dermo_ray.data.export import export_llava
from dermo_ray.data.ingest import IMAGES, block_key, block_path, ingest, is_stored, store_block
from dermo_ray.data.listing import Survey, as_tables, entries_of, repeated, survey
from dermo_ray.data.manifest import read_manifest, settings_key, unfinished, unknown_labels
from dermo_ray.data.samples import Entry
from dermo_ray.data.selection import select
from dermo_ray.data.sources import Source, open_source
from dermo_ray.data.splits import BENCHMARK
from dermo_ray.data.tables import INGESTED, stored_samples, with_annotations
from dermo_ray.data.teacher.annotate import Annotation, AnnotationReport, annotate
from dermo_ray.data.teacher.endpoint import endpoint_teacher
from dermo_ray.errors import UserError
from dermo_ray.progress import progress_bar
from dermo_ray.staging import staged
from dermo_ray.taxonomy import Taxonomy
from jobs import preflight
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = PrepareConfig

_IMAGES_PER_TASK = 256
"""Enough to outweigh the cost of a task, few enough for the progress bar to move."""


def run(config: PrepareConfig) -> None:
    """Prepare the corpus that `config` describes, unless `out` already holds it.

    Raises `UserError` for a source that is not there, for too few usable images, and where `out` holds anything else.
    """
    sources = {source.title: open_source(source, config.seed) for source in config.mixture}
    listings = {title: source.entries() for title, source in sources.items()}
    taxonomy = Taxonomy.load(config.taxonomy)
    drawn = {source.title for source in config.mixture if source.name == "phantoms"}
    surveys = {
        title: Survey(entries=len(listings[title])) if title in drawn else survey(source, listings[title])
        for title, source in sources.items()
    }
    unknown = unknown_labels(sum((found.labels for found in surveys.values()), Counter[str]()), taxonomy)
    if config.dry_run:
        _print(surveys, unknown)
    _check_mapped(unknown, config)
    if config.dry_run:
        return
    key = settings_key(config, listings, taxonomy)
    if _is_prepared(config, key):
        print(f"{config.out} is already prepared from these settings and data: nothing to do")
    else:
        _prepare(config, sources, listings, taxonomy, key)
    if config.export == "llava":
        counts = export_llava(config.out, config.out / "llava", taxonomy)
        print(f"{config.out / 'llava'}: " + ", ".join(f"{count:,} in {name}" for name, count in counts.items()))


def _prepare(
    config: PrepareConfig,
    sources: Mapping[str, Source],
    listings: Mapping[str, Sequence[Entry]],
    taxonomy: Taxonomy,
    key: str,
) -> None:
    cache = config.cache_folder
    # what must not be replaced was refused before
    with staged(config.out, replace=True) as folder, ray_session():
        preflight.ensure("prepare", config)
        rows = _ingested(config, sources, listings, cache)
        selection = select(rows, config, taxonomy)
        samples = selection.samples
        facts: dict[str, Any] = {"settings_key": key}
        if config.concepts is not None:
            drafted = _drafted(samples, cache, config.concepts)
            samples = with_annotations(samples, drafted)
            facts["drafts"] = len(drafted)
        if config.teacher is not None:
            report = asyncio.run(_annotated(samples, cache, config.teacher, taxonomy))
            samples = with_annotations(samples, report.annotations)
            facts["teacher"] = report.counts()
        _link_images(samples["image"].to_pylist(), cache, folder)
        facts["licences"] = {title: source.licence for title, source in sources.items()}
        manifest = write_corpus(samples, selection.rejects, config, taxonomy, folder, facts)
    counts = manifest["counts"]
    lost = sum(sum(reasons.values()) for reasons in manifest["dropped"].values())
    print(
        f"{config.out}: {counts['images']['total']:,} images ({lost:,} dropped), "
        f"{counts['trajectories']['total']:,} conversations, {counts['rl']['total']:,} prompts"
    )
    if (lacking := unfinished(manifest, config.teacher)) is not None:
        print(f"{config.out}: {lacking}; run again to add them", file=sys.stderr)


def _is_prepared(config: PrepareConfig, key: str) -> bool:
    """Whether `out` holds the corpus called `key`, with all that can be had of it.

    Raises `UserError` where it holds what must not be replaced.
    """
    out = config.out
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder as out")
    manifest = read_manifest(out)
    if manifest is None:
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty and no prepared folder: choose another out")
        return False
    if manifest["settings_key"] != key:
        if not config.replace:
            raise UserError(
                f"{out} was prepared from other settings or data: choose another out, or set replace=true to remake it"
            )
        return False
    lacking = unfinished(manifest, config.teacher)
    if lacking is not None:
        print(f"{out}: {lacking}: trying again")
    return lacking is None


def _ingested(
    config: PrepareConfig, sources: Mapping[str, Source], listings: Mapping[str, Sequence[Entry]], cache: Path
) -> pa.Table:
    """The `INGESTED` rows of every entry; blocks that the cache lacks are read on the cluster first."""
    settings: dict[str, SourceConfig] = {source.title: source for source in config.mixture}
    blocks = [
        (table, block_path(cache, block_key(table, settings[title], config.images)))
        for title, entries in listings.items()
        for table in as_tables(title, entries, _IMAGES_PER_TASK)
    ]
    (cache / IMAGES).mkdir(parents=True, exist_ok=True)
    new = [
        table.append_column("block", pa.array([str(path)] * len(table)))
        for table, path in blocks
        if not is_stored(path)
    ]

    def ingest_block(table: pa.Table) -> pa.Table:
        cv2.setNumThreads(1)  # every core has a task of its own
        title, path = table["source"][0].as_py(), Path(table["block"][0].as_py())
        rows = [ingest(entry, title, sources[title], config.images, cache) for entry in entries_of(table)]
        store_block(rows, path)
        return pa.table({"rows": [len(rows)]})

    images = sum(len(table) for table, _ in blocks)
    read = sum(map(len, new))
    with progress_bar(images, "prepare", " images", initial=images - read) as progress:
        if new:
            stored = ray.data.from_arrow(new).map_batches(ingest_block, batch_format="pyarrow", batch_size=None)
            for batch in stored.iter_batches(batch_format="pyarrow", batch_size=None):
                progress.update(pc.sum(batch["rows"]).as_py())
    return pa.concat_tables([repeated(listings), *(pq.read_table(path, schema=INGESTED) for _, path in blocks)])


def _drafted(samples: pa.Table, cache: Path, model: Path) -> dict[str, Annotation]:
    """What the concept model drafts for `samples` without a morphology, by their ids; benchmarks stay as they are."""
    from dermo_ray.models.concepts import ConceptScorer  # here: it brings torch along

    bare = pc.and_(pc.is_null(samples["annotation"]), pc.not_equal(samples["split"], BENCHMARK))
    lacking = list(stored_samples(samples.filter(bare)))
    annotations = {}
    with progress_bar(len(lacking), "drafts", " images") as bar:
        for sample_id, draft in drafts(ConceptScorer.of(model), annotator_of(model), lacking, cache):
            annotations[sample_id] = draft
            bar.update()
    return annotations


async def _annotated(samples: pa.Table, cache: Path, settings: TeacherSettings, taxonomy: Taxonomy) -> AnnotationReport:
    """Let the teacher write what `samples` lack; benchmarks stay as they are."""
    trained_on = samples.filter(pc.not_equal(samples["split"], BENCHMARK))
    with progress_bar(len(trained_on), "teacher", " images") as bar:

        def progress(report: AnnotationReport) -> None:
            bar.set_postfix_str(f"{report.asked} asked, {report.cached} cached", refresh=False)
            bar.update(report.images - bar.n)

        teacher = endpoint_teacher if settings.endpoint is not None else pool_teacher
        async with teacher(settings) as ask:
            return await annotate(stored_samples(trained_on), cache, settings, ask, taxonomy, progress)


def _link_images(names: Sequence[str], cache: Path, folder: Path) -> None:
    """Give `folder` the stored images called `names`: as further names of the cache's files, or else as copies."""
    for name in dict.fromkeys(names):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(cache / name, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(cache / name, target)


def _check_mapped(unknown: Mapping[str, Mapping[str, Any]], config: PrepareConfig) -> None:
    """Tell of labels that the tree does not know. Raises `UserError` where they are to stop the run."""
    if not unknown:
        return
    if not config.dry_run:  # which has shown them by source
        table = rich.table.Table("label", "images", "nearest", title="Not in the taxonomy")
        for label, facts in unknown.items():
            nearest = ", ".join(facts["nearest"]) or "nothing near"
            table.add_row(rich.markup.escape(label), f"{facts['count']:,}", rich.markup.escape(nearest))
        rich.print(table)
    images = sum(facts["count"] for facts in unknown.values())
    message = f"{len(unknown):,} labels of {images:,} images are not in the taxonomy"
    if config.unmapped == "stop":
        raise UserError(f"{message}: add them as synonyms to a tree of your own (taxonomy=FILE), or set unmapped=drop")
    print(f"{message}; they are dropped where they have no morphology", file=sys.stderr)


def _print(surveys: Mapping[str, Survey], unknown: Mapping[str, Mapping[str, Any]]) -> None:
    table = rich.table.Table("source", "entries", "can't be used", "labels", "not in the taxonomy", title="To be read")
    for title, found in surveys.items():
        table.add_row(
            title,
            f"{found.entries:,}",
            ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.refused.items())) or "none known",
            f"{len(found.labels)}",
            "\n".join(
                rich.markup.escape(f"{label} ({count:,}): {', '.join(unknown[label]['nearest']) or 'nothing near'}")
                for label, count in sorted(found.labels.items(), key=lambda entry: (-entry[1], entry[0]))
                if label in unknown
            ),
        )
    rich.print(table)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
