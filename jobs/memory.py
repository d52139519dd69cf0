"""Peak memory of a job with everything that it started."""

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
        me = psutil.Process()
        while not self._ended.wait(self._interval):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue  # it ended between being listed and being read
            self.gib = max(self.gib, total / 2**30)
