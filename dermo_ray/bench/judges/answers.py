"""What is judged, and what comes of it, be it by a judge or by the offline comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dermo_ray.bench.judges.rubrics import OpenTask, Part, Verdict

Method = Literal["judge", "offline"]


@dataclass(frozen=True)
class OpenAnswer:
    """One answer to an open task, and the reference, both whole as written."""

    task: OpenTask
    reference: str
    answer: str

    @property
    def blank(self) -> bool:
        """Whether the answer has no letter or digit; it scores 0 whoever judges."""
        return not any(map(str.isalnum, self.answer))


@dataclass(frozen=True)
class Judgement:
    """The score of one answer."""

    score: float
    """In [0, 100], as `rubrics.combined` makes it of the parts; the mean over votes."""
    parts: Mapping[Part, float]
    """In [0, 100] each, the mean over votes."""
    method: Method
    """Scores of different methods, and of different judges, can't be compared."""
    votes: tuple[Verdict, ...] = ()
    """What the judge found, vote by vote; empty for a blank answer, and offline."""
