"""Everything that shows how a MAVIC run is doing: its metrics file, TensorBoard, Prometheus, experiment tracking."""

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

from actors.exporting import Countable, Exporter
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.metrics import MetricsWriter
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.samples import reward_values, sample_cards
from dermo_ray.tracking import Tracker

_COUNTED_EVERY = 5.0
"""Seconds between two looks at the pools."""


class Monitor:
    """Reports, while it is entered, on a run that has made `resumed_version` updates, and on its pools."""

    def __init__(self, config: MavicConfig, resumed_version: int, pools: Mapping[str, Countable]) -> None:
        self._config, self._resumed_version, self._pools = config, resumed_version, pools

    def update(self, version: int, metrics: Mapping[str, float], rows: Sequence[ScoredCompletion]) -> None:
        """Report the update that made policy `version`, and the completions that it was made from."""
        self._writer.write(version, metrics)
        self._writer.write_histograms(version, reward_values(rows))
        if version % self._config.checkpoint_every == 0 or version == self._config.steps:
            self._writer.write_images(version, sample_cards(rows, self._config.data))
        self._exporter.update(version, metrics)
        self._tracker.log(version, metrics)

    def __enter__(self) -> "Monitor":
        config = self._config
        self._tracker = Tracker(config.tracking, config.run, config.model_dump(mode="json"))
        self._writer = MetricsWriter(config.run, self._resumed_version)
        self._exporter = Exporter(config.run.name)
        self._ended = threading.Event()
        self._counter = threading.Thread(target=self._count, name="pools", daemon=True)
        self._counter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._counter.join()
        self._writer.close()
        self._tracker.close()

    def _count(self) -> None:
        while not self._ended.wait(_COUNTED_EVERY):
            self._exporter.pools(self._pools)
