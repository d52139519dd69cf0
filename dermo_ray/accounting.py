"""Where the time of a run goes: what each pool did at every moment, and how long the queues between them were.

Invariant: at every moment each pool has one share that is busy and one name for what the rest of it waits for, so that
over any span its shares add up to 1, whatever overlaps within it.
"""

import time
from collections import defaultdict
from collections.abc import Callable

BUSY = "busy"


class Account:
    """One pool's seconds since it was last closed, by what it did."""

    def __init__(self, wait: str, now: float) -> None:
        self._busy, self._wait = 0.0, wait
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = now

    def change(self, now: float, busy: float | None = None, wait: str | None = None) -> None:
        """From `now` on, `busy` (0 to 1) of the pool works and the rest waits for `wait`; None leaves one as it is."""
        self._count(now)
        self._busy = self._busy if busy is None else busy
        self._wait = self._wait if wait is None else wait

    def close(self, now: float) -> dict[str, float]:
        """The seconds up to `now` by what the pool did; counting begins anew."""
        self._count(now)
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _count(self, now: float) -> None:
        passed, self._since = now - self._since, now
        self._seconds[BUSY] += self._busy * passed
        self._seconds[self._wait] += (1 - self._busy) * passed


class Level:
    """Something that goes up and down, and its mean over time."""

    def __init__(self, now: float) -> None:
        self._value = self._area = 0.0
        self._began = self._since = now

    def change(self, now: float, value: float) -> None:
        """From `now` on it stands at `value`."""
        self._area += self._value * (now - self._since)
        self._value, self._since = value, now

    def close(self, now: float) -> float:
        """The mean up to `now`; counting begins anew."""
        self.change(now, self._value)
        mean = self._area / (now - self._began) if now > self._began else self._value
        self._area, self._began = 0.0, now
        return mean


class Accounts:
    """The accounts of a run's pools and the levels of its queues, by one clock that counts seconds."""

    def __init__(self, waits: dict[str, str], queues: tuple[str, ...], clock: Callable[[], float] = time.monotonic):
        """`waits` names each pool and what it waits for at first."""
        self._clock = clock
        self._began = clock()
        self._accounts = {pool: Account(wait, self._began) for pool, wait in waits.items()}
        self._levels = {queue: Level(self._began) for queue in queues}

    def pool(self, name: str, busy: float | None = None, wait: str | None = None) -> None:
        """From now on, `busy` (0 to 1) of pool `name` works and the rest waits for `wait`."""
        self._accounts[name].change(self._clock(), busy, wait)

    def queue(self, name: str, length: float) -> None:
        """From now on, queue `name` is `length` long."""
        self._levels[name].change(self._clock(), length)

    def close(self) -> dict[str, float]:
        """Metrics of the span since the last `close`: shares of its wall time by pool, and mean lengths of the queues.

        The shares of one pool, `share/POOL/busy` and `share/POOL/WAIT`, add up to 1.
        """
        now = self._clock()
        wall, self._began = now - self._began, now
        metrics = {f"queue/{name}": level.close(now) for name, level in self._levels.items()}
        for pool, account in self._accounts.items():
            seconds = account.close(now)
            if wall > 0:
                named = {f"{pool}/{activity}": spent / wall for activity, spent in seconds.items()}
                metrics |= {f"share/{name}": share for name, share in named.items()}
        return metrics
