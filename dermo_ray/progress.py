"""Progress of a job: a bar where somebody watches a terminal, a line now and then where it goes to a log.

Invariant: without a terminal nothing but whole lines is written, one at the beginning, one at the end and at most one
every `LOG_INTERVAL` seconds between, so that a job's log stays readable however long the job takes.
"""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

LOG_INTERVAL = 30.0
"""Seconds between two lines in a log."""


class LogLines:
    """What a log shows in place of a bar; the part of tqdm's interface that jobs use."""

    def __init__(self, total: int, desc: str, unit: str, initial: int, file: TextIO) -> None:
        self.n: float = initial
        self._initial = initial
        self._total, self._desc, self._unit, self._file = total, desc, unit, file
        self._postfix = ""
        self._began = self._written_at = time.monotonic()
        self._written_n: float = initial
        self._line()

    def update(self, n: float = 1) -> None:
        """Count `n` more, and write a line if the last one is old enough."""
        self.n += n
        if self.n != self._written_n and time.monotonic() - self._written_at >= LOG_INTERVAL:
            self._line()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What the next line ends with; lines come when they are due, whatever `refresh` says."""
        self._postfix = text

    def write(self, text: str, file: TextIO | None = None) -> None:
        """Write a line of its own at once."""
        print(text, file=file or self._file, flush=True)

    def _line(self) -> None:
        taken = time.monotonic() - self._began
        parts = [f"{self.n:,} of {self._total:,}{self._unit}", tqdm.format_interval(taken)]
        if taken > 0 and self.n > self._initial:
            rate = (self.n - self._initial) / taken
            parts.append(f"{rate:.2f}{self._unit}/s")
            if self.n < self._total:
                parts.append(f"{tqdm.format_interval((self._total - self.n) / rate)} left")
        if self._postfix:
            parts.append(self._postfix)
        self.write(f"{self._desc}: {', '.join(parts)}")
        self._written_n, self._written_at = self.n, time.monotonic()

    def __enter__(self) -> "LogLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.n != self._written_n:
            self._line()


def progress_bar(
    total: int, desc: str, unit: str, initial: int = 0, file: TextIO | None = None
) -> "tqdm[Any] | LogLines":
    """Counts `unit` (such as " updates") from `initial` to `total` on stderr, or `file`; use it in a `with`."""
    stream = file or sys.stderr
    if stream.isatty():
        return tqdm(total=total, initial=initial, desc=desc, unit=unit, file=stream)
    return LogLines(total, desc, unit, initial, stream)
