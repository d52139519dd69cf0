"""The groups of a run between admission and update, in the order of their prompts.

Invariants: an index is admitted once, and leaves as trained on, dropped or given up; batches are made of the groups
admitted first, however long the last of them takes, since a straggler that younger groups overtook would be too old.
"""

from collections import deque
from collections.abc import Collection, Iterable

from actors import refill
from actors.messages import ScoredGroup


class GroupQueue:
    """Holds what is under way. `taken` groups were trained on before; `next_index` was never admitted.

    `pending` prompts are admitted again before any other; `ready` groups, each with whether it teaches nothing,
    wait for their update.
    """

    def __init__(
        self,
        batch_groups: int,
        most_dropped: int,
        taken: int = 0,
        next_index: int = 0,
        pending: Iterable[int] = (),
        ready: Collection[tuple[ScoredGroup, bool]] = (),
    ) -> None:
        self._batch_groups = batch_groups
        self._most_dropped = most_dropped
        self.taken = taken
        """Groups that updates were made from, or will be next."""
        self.next_index = next_index
        self._again = deque(sorted(pending))
        self._running: set[int] = set()
        self._ready = {scored.group.prompt.index: scored for scored, _ in ready}
        self._constant = {scored.group.prompt.index for scored, constant in ready if constant}
        self._line = deque(sorted([*self._again, *self._ready]))
        """What is not settled: everything from the first prompt on whose group is not ready."""
        self._settled: list[int] = []
        """Ready groups with none before them that is not."""
        self._settle()

    @property
    def running(self) -> int:
        """Groups that are being sampled or scored."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Scored groups that wait for their update."""
        return len(self._ready)

    @property
    def full(self) -> bool:
        """Whether there are groups enough for the next update."""
        return self._first_batch() is not None

    @property
    def ready(self) -> list[ScoredGroup]:
        """Those that wait, in order."""
        return [self._ready[index] for index in sorted(self._ready)]

    @property
    def pending(self) -> list[int]:
        """Prompts that were admitted and have no scored group yet, in order."""
        return sorted([*self._running, *self._again])

    def ahead(self) -> int:
        """How many groups, at most, are trained on before one that is admitted now."""
        if not self._most_dropped:
            return self.taken + len(self._running) + len(self._ready)
        waiting = set(self._again)
        under_way = [*self._settled, *(index for index in self._line if index not in waiting)]
        constant = (index in self._constant for index in under_way)
        return self.taken + sum(refill.kept(constant, self._batch_groups, self._most_dropped))

    def admit(self) -> int:
        """The next prompt; it runs from now on."""
        if self._again:
            index = self._again.popleft()
        else:
            index = self.next_index
            self.next_index += 1
            self._line.append(index)
        self._running.add(index)
        return index

    def finish(self, scored: ScoredGroup, constant: bool) -> None:
        """A group is scored; `constant` says that it teaches nothing."""
        index = scored.group.prompt.index
        self._running.remove(index)
        self._ready[index] = scored
        if constant:
            self._constant.add(index)
        self._settle()

    def give_up(self, index: int) -> None:
        """A prompt is left out; another will be admitted in its place."""
        self._running.remove(index)
        self._line.remove(index)
        self._settle()

    def batch(self) -> tuple[list[ScoredGroup], list[ScoredGroup]] | None:
        """Take the groups of the next update, and those dropped on the way to them; None while there are too few."""
        found = self._first_batch()
        if found is None:
            return None
        trained, dropped = found
        self.taken += len(trained)
        self._constant.difference_update(trained, dropped)
        del self._settled[: len(trained) + len(dropped)]
        return [self._ready.pop(index) for index in trained], [self._ready.pop(index) for index in dropped]

    def _first_batch(self) -> tuple[list[int], list[int]] | None:
        if len(self._settled) < self._batch_groups:
            return None
        return refill.first_batch(self._settled, self._constant, self._batch_groups, self._most_dropped)

    def _settle(self) -> None:
        while self._line and self._line[0] in self._ready:
            self._settled.append(self._line.popleft())
