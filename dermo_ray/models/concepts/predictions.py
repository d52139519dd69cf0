"""What a concept model said about the split that it is measured on, as a file of the run directory."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dermo_ray.data.corpus import SAMPLES_FILE
from dermo_ray.models.concepts.data import ConceptSamples
from dermo_ray.models.concepts.model import Logits
from dermo_ray.models.concepts.vocabulary import SCHEMAS
from dermo_ray.records import Split
from dermo_ray.staging import staged_file

PREDICTIONS = Path("evaluation") / "predictions.parquet"


def evaluation_split(prepared: Path) -> Split:
    """The split that the model is measured on: `test`, or `val` where the prepared folder has no test split."""
    splits = set(pq.read_table(prepared / SAMPLES_FILE, columns=["split"])["split"].to_pylist())
    return "test" if "test" in splits else "val"


def write_predictions(run: Path, samples: ConceptSamples, logits: Logits) -> None:
    """Write a row an image: `id`, and the logits of the concepts of both schemas, before the temperature."""
    columns: dict[str, pa.Array] = {
        schema: pa.array(logits[schema].tolist(), pa.list_(pa.float32())) for schema in SCHEMAS
    }
    path = run / PREDICTIONS
    path.parent.mkdir(exist_ok=True)
    with staged_file(path) as aside:
        pq.write_table(pa.table({"id": pa.array(samples.ids), **columns}), aside)


def read_predictions(run: Path, samples: ConceptSamples) -> Logits:
    """The logits of `samples`, in their order. Raises `ValueError` where the file is about other images."""
    table = pq.read_table(run / PREDICTIONS)
    if table["id"].to_pylist() != samples.ids:
        raise ValueError(f"{run / PREDICTIONS} is not about the images of this split")
    return {schema: torch.tensor(table[schema].to_pylist(), dtype=torch.float32) for schema in SCHEMAS}
