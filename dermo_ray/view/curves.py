"""A run's metrics as charts: one for each family of keys, with no more points than a screen can show."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dermo_ray.report.metrics import FloatArray, Series, read_metrics
from dermo_ray.run_directory import METRICS

MAX_POINTS = 400
"""Longer series are cut into as many runs, each shown as its mean."""

_NOT_SHOWN = frozenset({"time"})
_COUNTED = "faults"
"""A family that names in each update only what occurred in it."""


def curves(run: Path) -> list[dict[str, Any]]:
    """A chart for each family (`reward/...`) and each single key, none where the run has no metrics yet.

    A chart has a `title`, a `stride` (how many updates a point stands for, at most), and `series`, each of `name`,
    `steps`, `values` and `last`, the last value as it was reported.
    """
    path = run / METRICS
    metrics = read_metrics(path) if path.is_file() else {}
    families: defaultdict[str, list[tuple[str, Series]]] = defaultdict(list)
    for key, series in metrics.items():
        if key not in _NOT_SHOWN:
            family, _, name = key.rpartition("/")
            complete = _with_zeros(series, metrics["time"].steps) if family == _COUNTED else series
            families[family or key].append((name, complete))
    charts = []
    for title, members in families.items():
        stride = -(-max(len(series.steps) for _, series in members) // MAX_POINTS)
        charts.append(
            {"title": title, "stride": stride, "series": [_thinned(name, series, stride) for name, series in members]}
        )
    return sorted(charts, key=lambda chart: (len(chart["series"]) == 1, not chart["title"].startswith("reward")))


def _with_zeros(series: Series, steps: FloatArray) -> Series:
    """The series at every one of `steps`, which hold its own: 0 where it has no value."""
    values = np.zeros_like(steps)
    values[np.searchsorted(steps, series.steps)] = series.values
    return Series(steps, values)


def _thinned(name: str, series: Series, stride: int) -> dict[str, Any]:
    starts = np.arange(0, len(series.steps), stride)
    counts = np.diff([*starts, len(series.steps)])
    values = np.add.reduceat(series.values, starts) / counts
    last = np.append(starts[1:], len(series.steps)) - 1
    return {
        "name": name,
        "steps": series.steps[last].astype(int).tolist(),
        "values": [float(f"{value:.6g}") for value in values],
        "last": float(series.values[-1]),
    }
