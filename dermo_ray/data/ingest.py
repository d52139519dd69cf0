"""One entry of a source becomes one row of the sample table, and its image a stored file.

Invariant: `ingest` returns a row for every entry, usable or rejected, and reading the same entry again gives the same
row, wherever that happens.
"""

import json
from pathlib import Path
from typing import Any

from dermo_ray.config.prepare import ImageSettings
from dermo_ray.data import images
from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.data.sources import Source
from dermo_ray.data.tables import SAMPLES
from dermo_ray.morphology import Morphology
from dermo_ray.taxonomy import Taxonomy

IMAGES = "images"
"""The folder of the stored images, inside a prepared folder."""


def ingest(
    entry: Entry, name: str, source: Source, taxonomy: Taxonomy, settings: ImageSettings, folder: Path
) -> dict[str, Any]:
    """The row of `SAMPLES` for `entry` of the source called `name`; its image is stored under `folder`/images."""
    row: dict[str, Any] = dict.fromkeys(SAMPLES.names) | {"id": entry.id, "source": name}
    try:
        sample = source.sample(entry)
        row |= _reference(sample, taxonomy)
        _check_annotated(sample, row["label"])
        image = images.load(sample.image, settings)
        row["image"] = f"{IMAGES}/{images.store(image, folder / IMAGES, settings)}"
    except Reject as verdict:
        row["reject"] = verdict.reason
    return row


def _reference(sample: Sample, taxonomy: Taxonomy) -> dict[str, Any]:
    return {
        "group": sample.group,
        "modality": sample.modality,
        "raw_label": sample.raw_label,
        "label": None if sample.raw_label is None else taxonomy.canonical(sample.raw_label),
        "morphology": _as_json(sample.morphology),
        "annotation": _as_json(sample.annotation),
        "skin_tone": sample.skin_tone,
    }


def _check_annotated(sample: Sample, label: str | None) -> None:
    """Refuse a sample of which no record can be made: neither a label nor a morphology."""
    if label is None and sample.morphology is None:
        raise Reject("missing_label" if sample.raw_label is None else "unknown_label")


def _as_json(morphology: Morphology | None) -> str | None:
    return None if morphology is None else json.dumps(morphology.to_json())
