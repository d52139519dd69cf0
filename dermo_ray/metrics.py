"""Writes a run's metrics: to `metrics.jsonl`, a flat object a line, and to TensorBoard.

Invariant: after a resume the file holds no line of a step that the resumed run has yet to do.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dermo_ray.run_directory import METRICS
from dermo_ray.staging import staged_file

TENSORBOARD = "tensorboard"


class MetricsWriter:
    """Appends to the metrics of the run directory `run`, after `resumed_step` updates (0 for a new run)."""

    def __init__(self, run: Path, resumed_step: int = 0) -> None:
        run.mkdir(parents=True, exist_ok=True)
        path = run / METRICS
        if path.exists():
            _drop_after(path, resumed_step)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(run / TENSORBOARD), purge_step=resumed_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after update `step` (from 1), readable at once; what is not finite is written as null."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
        self._file.flush()
        for key, value in values.items():
            self._tensorboard.add_scalar(key, value, step)

    def write_histograms(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Show in TensorBoard how the values of each name are spread after update `step`."""
        for key, sample in values.items():
            self._tensorboard.add_histogram(key, np.asarray(sample), step)

    def write_images(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Show RGB images in TensorBoard, as samples of update `step`."""
        for key, image in images.items():
            self._tensorboard.add_image(f"samples/{key}", np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _drop_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and a last line that was cut off."""
    with path.open(encoding="utf-8") as lines:
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    with staged_file(path) as aside:
        aside.write_text("".join(kept), encoding="utf-8")
