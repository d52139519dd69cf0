"""How the releases of a service do, side by side, as this process has seen them: what a canary is judged by."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import Any

from serve.messages import Usage

_REMEMBERED = 1000
"""Latest answers that the quantiles and means are taken over."""


@dataclass
class Record:
    """What one release has answered."""

    answers: int = 0
    failures: int = 0
    """Answers with status 500 or above."""
    abstained: int = 0
    """Of the diagnoses."""
    diagnoses: int = 0
    faultless: int = 0
    """Diagnoses whose completion has no format fault."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    tokens: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    confidences: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def summary(self) -> dict[str, Any]:
        """Counts, and figures over the latest answers; null where there are none."""
        return {
            "answers": self.answers,
            "failures": self.failures,
            "seconds_p50": _quantile(self.seconds, 50),
            "seconds_p95": _quantile(self.seconds, 95),
            "mean_completion_tokens": fmean(self.tokens) if self.tokens else None,
            "diagnoses": self.diagnoses,
            "faultless": self.faultless,
            "abstained": self.abstained,
            "mean_confidence": fmean(self.confidences) if self.confidences else None,
        }


class Comparison:
    """The records of all releases, by label."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def answered(self, label: str, status: int, seconds: float, usage: Usage) -> None:
        """Count an answer of `label`, or its failure; a request that was at fault itself says nothing about it."""
        if 400 <= status < 500:
            return
        record = self._of(label)
        if status >= 500:
            record.failures += 1
            return
        record.answers += 1
        record.seconds.append(seconds)
        record.tokens.append(usage.completion_tokens)

    def diagnosed(self, label: str, confidence: float, *, abstained: bool, faultless: bool) -> None:
        """Count what a diagnosis of `label` was like."""
        record = self._of(label)
        record.diagnoses += 1
        record.abstained += abstained
        record.faultless += faultless
        record.confidences.append(confidence)

    def forget_all_but(self, labels: Collection[str]) -> None:
        """Drop the records of releases that are gone."""
        self._records = {label: record for label, record in self._records.items() if label in labels}

    def summary(self, label: str) -> dict[str, Any]:
        """How `label` did."""
        return self._records.get(label, Record()).summary()

    def _of(self, label: str) -> Record:
        return self._records.setdefault(label, Record())


def _quantile(values: Collection[float], percent: int) -> float | None:
    if not values:
        return None
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else next(iter(values))
