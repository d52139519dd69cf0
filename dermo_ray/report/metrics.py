"""A run's metrics: `metrics.jsonl` as one series for each key.

A line is a flat object with `step`, `time` and whatever else a stage reports. Where a step was done again after a
resume, its last line counts.
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Series(NamedTuple):
    """The values of one key by step, both [n], steps increasing; n is at least 1."""

    steps: FloatArray
    values: FloatArray


def read_metrics(path: Path) -> dict[str, Series]:
    """Every numeric key of the file, in order of first appearance; values that are not finite are left out.

    A last line without its line feed is still being written, and is not read.
    """
    values: defaultdict[str, dict[float, float]] = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                break
            entry = json.loads(line)
            step = entry.pop("step")
            for key, value in entry.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    values[key][step] = value
    return {key: Series(*np.array(sorted(points.items()), dtype=np.float64).T) for key, points in values.items()}
