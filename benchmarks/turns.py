"""Commands that take turns: while one runs, all processes of the others are stopped.

A small machine may be half as fast a minute later. Turns of a few seconds meet the same machine.
"""

import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil

from jobs.memory import memory_gib

_START_TIMEOUT = 600.0
"""Seconds that a command may take until its first updates are made."""

Span = tuple[float, float]
"""When a turn began and when it ended, in seconds since the epoch."""


@contextmanager
def killed(commands: Mapping[str, subprocess.Popen[bytes]]) -> Iterator[None]:
    """At the end of a `with`, each command that is still there is killed, with all that it started."""
    try:
        yield
    finally:
        for process in commands.values():
            if process.poll() is None:
                kill(process.pid)
                process.wait()


def wait_for_updates(process: subprocess.Popen[bytes], name: str, out: Path, count: int) -> None:
    """Return once `out` has `count` lines.

    Raises `RuntimeError` where the command ends before, or takes too long.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while not (out.exists() and len(out.read_text().splitlines()) >= count):
        if _ended(process, name, 0.5):
            raise RuntimeError(f"{name} ended before update {count}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} made no {count} updates within {_START_TIMEOUT:g} s")


def take_turns(
    commands: Mapping[str, subprocess.Popen[bytes]], turn: float, total: float = math.inf
) -> tuple[dict[str, list[Span]], dict[str, float]]:
    """Let commands that are paused go on for `turn` seconds each, until each has ended or has had `total` seconds.

    Returns the whole turns of each, and the most memory, in GiB, that each had at the end of one. Raises `RuntimeError`
    where a command fails.
    """
    turns: dict[str, list[Span]] = {name: [] for name in commands}
    memory = dict.fromkeys(commands, 0.0)
    rounds = 0
    while rounds * turn < total and (living := [n for n, process in commands.items() if process.poll() is None]):
        rounds += 1
        for name in living:
            process = commands[name]
            began = time.time()
            resume(process.pid)
            if _ended(process, name, turn):
                continue
            turns[name].append((began, time.time()))
            memory[name] = max(memory[name], memory_gib(process.pid))
            pause(process.pid)
    return turns, memory


def updates_per_second(times: Sequence[float], turns: Sequence[Span]) -> float:
    """Of the updates that ended at `times`: the rate of those that began and ended in one turn."""
    within = [[time for time in times if began <= time <= ended] for began, ended in turns]
    seconds = [after - before for turn in within for before, after in pairwise(turn)]
    return len(seconds) / sum(seconds)


def pause(pid: int) -> None:
    """Stop process `pid` and all below it."""
    stopped: set[psutil.Process] = set()
    while new := _family(pid) - stopped:  # those that were started while others were being stopped
        for process in new:
            process.suspend()
        stopped |= new


def resume(pid: int) -> None:
    """Let process `pid` and all below it go on."""
    for process in _family(pid):
        process.resume()


def kill(pid: int) -> None:
    """End process `pid` and all below it, stopped or not."""
    for process in _family(pid):
        process.kill()


def _ended(process: subprocess.Popen[bytes], name: str, seconds: float) -> bool:
    """Whether the command ends within `seconds`; raises `RuntimeError` where it fails."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    if status:
        raise RuntimeError(f"{name} ended with status {status}")
    return True


def _family(pid: int) -> set[psutil.Process]:
    main = psutil.Process(pid)
    return {main, *main.children(recursive=True)}
