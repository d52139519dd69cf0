"""A run's metrics for Prometheus: recorded through Ray, whose agent on each node exports them as `ray_NAME`.

Invariant: every metric of an update is exported, by the first pattern of `EXPORTED` that its key fits; what the pattern
names becomes a tag. All metrics carry the tag `run`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ray.util.metrics import Gauge


class Exported(NamedTuple):
    """A metric, and the keys of `metrics.jsonl` whose values it takes."""

    name: str
    description: str
    keys: str
    """A regular expression for whole keys; its named groups are tags."""


EXPORTED: tuple[Exported, ...] = (
    Exported("dermo_ray_reward", "Mean reward, and mean of each term before gate and weight.", r"reward/(?P<term>.+)"),
    Exported("dermo_ray_faults", "Mean number of each format fault in a completion.", r"faults/(?P<fault>.+)"),
    Exported("dermo_ray_staleness", "Age of completions in updates.", r"staleness/(?P<statistic>.+)"),
    Exported("dermo_ray_step_seconds", "Where the time of an update went.", r"seconds/(?P<part>.+)"),
    Exported("dermo_ray_tokens_per_second", "Generated tokens a second.", r"tokens_per_second"),
    Exported("dermo_ray_samples_per_second", "Completions trained on a second.", r"samples_per_second"),
    Exported("dermo_ray_metric", "Every other metric of an update, by its key.", r"(?P<metric>.+)"),
)

UPDATES = Exported("dermo_ray_updates", "Learner updates made.", "")
POOL_WORKERS = Exported("dermo_ray_pool_workers", "Workers of a pool that are there.", r"(?P<pool>.+)")
POOL_CALLS = Exported("dermo_ray_pool_calls", "Calls that the workers of a pool are working on.", r"(?P<pool>.+)")


class Busy(Protocol):
    """A worker, as far as it is counted."""

    running: int
    """Calls under way."""


class Countable(Protocol):
    """A pool, as far as it is counted."""

    @property
    def workers(self) -> Sequence[Busy]:
        """Those that are there."""


class Exporter:
    """Records the metrics of the run called `run`."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {
            entry.name: Gauge(entry.name, entry.description, ("run", *re.compile(entry.keys).groupindex))
            for entry in (*EXPORTED, UPDATES, POOL_WORKERS, POOL_CALLS)
        }

    def update(self, version: int, metrics: Mapping[str, float]) -> None:
        """Record an update's metrics; what is not finite keeps the value it had."""
        self._set(UPDATES, version)
        for key, value in metrics.items():
            entry, tags = exported_as(key)
            if math.isfinite(value):
                self._set(entry, value, tags)

    def pools(self, pools: Mapping[str, Countable]) -> None:
        """Record how many workers each pool has, and how many calls they work on."""
        for name, pool in pools.items():
            workers = list(pool.workers)  # the pool goes on meanwhile
            self._set(POOL_WORKERS, len(workers), {"pool": name})
            self._set(POOL_CALLS, sum(worker.running for worker in workers), {"pool": name})

    def _set(self, entry: Exported, value: float, tags: Mapping[str, str] | None = None) -> None:
        self._gauges[entry.name].set(value, tags={"run": self._run, **(tags or {})})


def exported_as(key: str) -> tuple[Exported, dict[str, str]]:
    """Which metric takes the values of `key`, and the tags they get."""
    for entry in EXPORTED:
        match = re.fullmatch(entry.keys, key)
        if match:
            return entry, match.groupdict()
    raise ValueError(f"no exported metric takes {key!r}")
