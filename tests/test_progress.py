"""Progress in a terminal and in a log."""

import io

import pytest

from dermo_ray import progress
from dermo_ray.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Lets a test say what time it is."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_whole_lines_and_few_of_them_however_many_updates_there_are(clock) -> None:
    log = io.StringIO()
    with progress_bar(total=10_000, desc="mavic", unit=" updates", file=log) as bar:
        for _ in range(10_000):
            clock[0] += 0.01
            bar.set_postfix_str("reward 0.5")
            bar.update()
    lines = log.getvalue().split("\n")
    assert "\r" not in log.getvalue()
    assert lines.pop() == ""
    assert len(lines) == 5  # 100 s: at 0, about 30, 60 and 90 s, and at the end
    assert lines[0] == "mavic: 0 of 10,000 updates, 00:00"
    assert lines[-1] == "mavic: 10,000 of 10,000 updates, 01:40, 100.00 updates/s, reward 0.5"


def test_a_line_says_how_long_it_will_still_take_from_where_the_job_went_on(clock) -> None:
    log = io.StringIO()
    with progress_bar(total=100, desc="sft", unit=" steps", initial=40, file=log) as bar:
        clock[0] += 60
        bar.update(20)
    assert log.getvalue().splitlines()[-1] == "sft: 60 of 100 steps, 01:00, 0.33 steps/s, 02:00 left"


def test_an_alarm_is_written_at_once(clock) -> None:
    log = io.StringIO()
    with progress_bar(total=5, desc="mavic", unit=" updates", file=log) as bar:
        bar.write("update 3: beware", file=log)
        assert log.getvalue().splitlines()[-1] == "update 3: beware"


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with progress_bar(total=5, desc="mavic", unit=" updates", file=terminal) as bar:
        bar.update(5)
    assert "\r" in terminal.getvalue()
