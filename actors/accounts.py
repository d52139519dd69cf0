"""The accounts of a run's time, kept by its controller and its pools.

| pool | what it may wait for |
| --- | --- |
| rollout | `staleness` (the gate waits for the learners), `concurrency` (the gate's other bound), `weights`, `end` |
| reward | `rollout` |
| learner | `rollout` (its batch is sampled), `reward` (it is scored), `weights` (engines load), `bookkeeping` |
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dermo_ray.accounting import Accounts

QUEUES = ("sampling", "scoring", "ready")


class RunAccounts:
    """What each pool does, and how many groups are sampled, scored, and ready for their update."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        waits = {"rollout": "staleness", "reward": "rollout", "learner": "rollout"}
        self._accounts = Accounts(waits, QUEUES, clock)
        self._lengths = dict.fromkeys(QUEUES, 0)
        self._in_batch = False
        self._clock = clock
        self._began = clock()
        self._tokens: dict[str, float] = {}
        self.count_tokens: Callable[[], dict[str, float]] = dict
        """Gives how many tokens each engine has sampled since it started."""

    def rollout(self, busy: float | None = None, wait: str | None = None) -> None:
        """The share of the engines that are at work, and what the others wait for; None leaves one as it was."""
        self._accounts.pool("rollout", busy, wait)

    def reward(self, busy: float) -> None:
        """The share of the reward workers that are at work."""
        self._accounts.pool("reward", busy)

    def learner_waits(self, reason: str) -> None:
        """What the learners wait for from now on."""
        self._in_batch = False
        self._accounts.pool("learner", wait=reason)

    def learner_waits_for_groups(self) -> None:
        """The learners wait for their next batch."""
        self._in_batch = True
        self._name_batch_wait()

    @contextmanager
    def learner(self) -> Iterator[None]:
        """The learners are at work during the body of a `with`."""
        self._accounts.pool("learner", busy=1.0)
        try:
            yield
        finally:
            self._accounts.pool("learner", busy=0.0)

    @contextmanager
    def group(self, queue: str) -> Iterator[None]:
        """A group is being sampled (`sampling`) or scored (`scoring`) during the body of a `with`."""
        self.resize(queue, self._lengths[queue] + 1)
        try:
            yield
        finally:
            self.resize(queue, self._lengths[queue] - 1)

    def resize(self, queue: str, length: int) -> None:
        """A queue is `length` long from now on."""
        self._lengths[queue] = length
        self._accounts.queue(queue, length)
        if self._in_batch:
            self._name_batch_wait()

    def close(self) -> dict[str, float]:
        """Metrics since the last `close`: shares of time, lengths of queues, wall time, and each engine's tokens/s."""
        now = self._clock()
        seconds, self._began = now - self._began, now
        metrics = self._accounts.close() | {"seconds/step": seconds}
        tokens = self.count_tokens()
        rates = {name: (count - self._tokens.get(name, 0.0)) / max(seconds, 1e-9) for name, count in tokens.items()}
        self._tokens = tokens
        return metrics | {f"tokens_per_second/{name}": rate for name, rate in rates.items()}

    def _name_batch_wait(self) -> None:
        self._accounts.pool("learner", wait="rollout" if self._lengths["sampling"] else "reward")
