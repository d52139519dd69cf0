"""Memory of a job with everything that it started, now and at its peak."""

import os
import threading
from types import TracebackType

import psutil


class PeakMemory:
    """Watches this process and all below it; `gib` is the most they had together.

    Proportional set size: memory that processes share counts once, not once for each. Adding it up for the thirty
    processes of a job takes 0.2 s of CPU, hence the long interval, in seconds.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.gib = 0.0
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self.gib = max(self.gib, memory_gib(os.getpid()))


def memory_gib(pid: int) -> float:
    """Proportional set size of process `pid` and all below it."""
    main = psutil.Process(pid)
    total = 0
    for process in [main, *main.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between being listed and being read
    return float(total / 2**30)
