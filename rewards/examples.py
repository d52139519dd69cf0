"""A reward term of one's own, to copy from: `reward.extra: ["rewards.examples:Brevity"]`."""

from dermo_ray.records import GroundTruth


class Brevity:
    """1 up to `limit` characters, from there falling to 0 at twice as many."""

    def __init__(self, limit: int = 800) -> None:
        self._limit = limit

    def __call__(self, completions: list[str], truths: list[GroundTruth]) -> list[float | None]:
        """One score for each completion, in order; None would say that the term does not apply to a reference."""
        return [min(1.0, max(0.0, 2.0 - len(text) / self._limit)) for text in completions]
