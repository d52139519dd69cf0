"""A limit of requests for each key, as a token bucket.

Invariant: memory is bounded: a bucket that is full again is as good as none, and is forgotten.
"""

import math
import time
from collections.abc import Callable

from dermo_ray.config.safety import SafetySettings
from serve.safety.errors import Refused

_MAX_BUCKETS = 10_000


class RateLimit:
    """Lets each name make `burst` requests at once, and `requests_per_minute` in the long run.

    Where that is null, or no keys are asked for, there is no limit.
    """

    def __init__(self, settings: SafetySettings, clock: Callable[[], float] = time.monotonic) -> None:
        limit = settings.requests_per_minute if settings.keys_file is not None else None
        self._per_second = math.inf if limit is None else limit / 60
        self._burst = float(settings.burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Requests left, and when that was so, by name."""

    def admit(self, name: str) -> None:
        """Count a request of `name`. Raises `Refused` (429), with the seconds to wait, where it is one too many."""
        if math.isinf(self._per_second):
            return
        now = self._clock()
        left = self._left(name, now)
        if left < 1:
            seconds = math.ceil((1 - left) / self._per_second)
            raise Refused(
                429,
                f"Too many requests with this key. Try again in {seconds} s.",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets = {known: b for known, b in self._buckets.items() if self._left(known, now) < self._burst}
        self._buckets[name] = (left - 1, now)

    def _left(self, name: str, now: float) -> float:
        left, then = self._buckets.get(name, (self._burst, now))
        return min(self._burst, left + (now - then) * self._per_second)
