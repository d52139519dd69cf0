"""How large a pool should be, from the work that there is for it.

Invariants: the answer lies between the bounds; a pool grows at once, and shrinks only to what would have done all along
for `idle_seconds`, so that the lull between two batches takes no worker away.
"""

import math

from dermo_ray.config.pools import AutoscaleSettings


class Autoscaler:
    """Follows one pool."""

    def __init__(self, settings: AutoscaleSettings) -> None:
        self._settings = settings
        self._below_since: float | None = None
        self._most_needed = 0

    def wanted(self, workers: int, calls: int, now: float) -> int:
        """How many workers there should be, with `calls` under way or waiting for `workers` at the time `now`."""
        settings = self._settings
        needed = math.ceil(calls / settings.calls_per_worker)
        needed = min(max(needed, settings.min_workers), settings.max_workers)
        if needed >= workers:
            self._below_since = None
            return needed
        if self._below_since is None:
            self._below_since, self._most_needed = now, needed
        self._most_needed = max(self._most_needed, needed)
        if now - self._below_since < settings.idle_seconds:
            return workers
        self._below_since = None
        return self._most_needed
