"""Right answers out of all, over items that have something in common."""

from collections.abc import Iterable, Mapping

from pydantic import Field

from dermo_ray.records import Record


class Tally(Record):
    """How many answers were right."""

    count: int = Field(ge=1)
    right: int = Field(ge=0)

    @property
    def accuracy(self) -> float:
        """The share that was right."""
        return self.right / self.count


def tallies(pairs: Iterable[tuple[str, bool]]) -> dict[str, Tally]:
    """{name: the tally of its answers}, sorted by name, from pairs of a name and whether the answer was right."""
    counts: dict[str, list[int]] = {}
    for name, right in pairs:
        count = counts.setdefault(name, [0, 0])
        count[0] += 1
        count[1] += right
    return {name: Tally(count=count, right=right) for name, (count, right) in sorted(counts.items())}


def mean_accuracy(groups: Mapping[str, Tally]) -> float | None:
    """The mean of the groups' accuracies, each counting alike (macro average); None without groups."""
    return sum(group.accuracy for group in groups.values()) / len(groups) if groups else None
