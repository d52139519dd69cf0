"""Reads data sets and writes the prepared folder: images, training conversations and reinforcement-learning prompts.

One source: `source=ham10000 root=DIR out=DIR`, or `source=phantoms count=1000 out=DIR`. Several: a settings file with
`sources`. Images are read, checked and stored by Ray Data on every core of the cluster; `out` must lie on a file system
that all of its nodes share. Memory does not grow with the images: only their rows come back.
An unchanged run does no work; a failed one leaves nothing that looks complete.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import ray.data
from tqdm import tqdm

from dermo_ray.config.prepare import ImageSettings, PrepareConfig
from dermo_ray.data.corpus import write_corpus
from dermo_ray.data.ingest import IMAGES, ingest
from dermo_ray.data.listing import as_tables, entries_of, repeated
from dermo_ray.data.manifest import read_manifest, settings_key
from dermo_ray.data.samples import Entry
from dermo_ray.data.sources import Source, open_source
from dermo_ray.data.staging import staged
from dermo_ray.data.tables import SAMPLES
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = PrepareConfig

_IMAGES_PER_TASK = 64
"""Enough to outweigh the cost of a task, few enough for the progress bar to move."""


def run(config: PrepareConfig) -> None:
    """Prepare the corpus that `config` describes, unless `out` already holds it.

    Raises `UserError` for a source that is not there, for too few usable images, and where `out` holds anything else.
    """
    sources: dict[str, Source] = {source.name: open_source(source, config.seed) for source in config.mixture}
    listings = {name: source.entries() for name, source in sources.items()}
    key = settings_key(config, listings)
    if _is_prepared(config.out, key):
        print(f"{config.out} is already prepared from these settings and data: nothing to do")
        return
    taxonomy = Taxonomy.load()
    with staged(config.out.absolute()) as folder:
        (folder / IMAGES).mkdir()
        with ray_session():
            rows = _store_images(listings, sources, taxonomy, config.images, folder)
        licences = {name: source.licence for name, source in sources.items()}
        manifest = write_corpus(rows, config, key, licences, taxonomy, folder)
    counts = manifest["counts"]
    lost = sum(sum(reasons.values()) for reasons in manifest["dropped"].values())
    print(
        f"{config.out}: {counts['images']['total']:,} images ({lost:,} dropped), "
        f"{counts['trajectories']['total']:,} conversations, {counts['rl']['total']:,} prompts"
    )


def _is_prepared(out: Path, key: str) -> bool:
    """Whether `out` holds the corpus called `key`. Raises `UserError` where it holds anything else."""
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
        raise UserError(f"{out} was prepared from other settings or data: choose another out, or remove it")
    return True


def _store_images(
    listings: Mapping[str, Sequence[Entry]],
    sources: Mapping[str, Source],
    taxonomy: Taxonomy,
    settings: ImageSettings,
    folder: Path,
) -> pa.Table:
    """Ingest every entry on the cluster; the `SAMPLES` rows of all of them, in no particular order."""

    def ingest_all(table: pa.Table) -> pa.Table:
        rows = [ingest(entry, name, sources[name], taxonomy, settings, folder) for name, entry in entries_of(table)]
        return pa.Table.from_pylist(rows, SAMPLES)

    done = [repeated(listings)]
    tables = as_tables(listings, _IMAGES_PER_TASK)
    if tables:
        stored = ray.data.from_arrow(tables).map_batches(ingest_all, batch_format="pyarrow", batch_size=None)
        with tqdm(total=sum(map(len, tables)), desc="prepare", unit=" images", file=sys.stderr) as progress:
            for rows in stored.iter_batches(batch_format="pyarrow", batch_size=None):
                done.append(rows)
                progress.update(len(rows))
    return pa.concat_tables(done)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
