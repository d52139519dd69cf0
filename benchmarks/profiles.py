"""Where the time of a command goes, over all its processes: `python -m benchmarks.profiles NAME -- COMMAND`.

Starts the command, waits until its start-up is over (`--once`, `--after`), measures for a while what each of its
processes takes of the cores, samples their Python stacks with py-spy for as long again, threads that wait left out,
and ends it. Adds to `benchmarks/results/profiles.json`, under NAME, each kind of process, by the title it has: how many
cores it took, and the functions in which most of its samples were, those included that they called. The measurements of
a name stay in order, each with its commit and what was changed before it (`--note`): the first is before, the last is
after.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from benchmarks.turns import wait_for_updates

RATE = 20
"""Samples a second."""
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(:\d+)?\)$")
_LEAST = 0.01
"""Cores below which a process is left out."""
_PATIENCE = 60.0
"""Seconds that the command has to end once it is told to."""
_PASSED_ON = 0.9
"""A function that hands so much of its time to one that it calls says nothing which that one doesn't."""
_LISTED = 12


Stack = tuple[str, list[str], int]
"""Process, frames from the outermost on as `function (file)`, and samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what is profiled, such as a benchmark")
    parser.add_argument("--note", default="", help="what was changed since the measurement before")
    parser.add_argument("--once", type=Path, help="file that has a line when start-up is over, such as a run's metrics")
    parser.add_argument("--after", type=float, default=10, help="seconds from then on that are left out as well")
    parser.add_argument("--seconds", type=float, default=30, help="that are measured")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    if arguments.once is not None:
        arguments.once.unlink(missing_ok=True)
    running = subprocess.Popen(arguments.command)
    try:
        _wait(running, arguments.once, arguments.after)
        cores, titles, stacks = sampled(running.pid, arguments.seconds)
    finally:
        started = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
        running.send_signal(signal.SIGTERM)
        running.wait(_PATIENCE)
        for left in psutil.wait_procs(started, timeout=_PATIENCE)[1]:
            left.kill()
    found = {
        "command": " ".join(arguments.command), "note": arguments.note, "commit": _commit(), "machine": describe(),
        "processes": costs(cores, titles, stacks),
    }  # fmt: skip
    path = RESULTS / "profiles.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {
        "command": "python -m benchmarks.profiles NAME -- COMMAND", "profiles": {}
    }  # fmt: skip
    results["profiles"].setdefault(arguments.name, []).append(found)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(found["processes"], indent=2))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _wait(running: subprocess.Popen[bytes], once: Path | None, after: float) -> None:
    """Return `after` seconds after `once` has a first line.

    Raises `RuntimeError` where the command ends before, or takes too long.
    """
    if once is not None:
        wait_for_updates(running, "the command", once, 1)
    time.sleep(after)
    if running.poll() is not None:
        raise RuntimeError(f"the command ended before {after:g} s (--after)")


def sampled(pid: int, seconds: float) -> tuple[dict[str, float], dict[str, str], list[Stack]]:
    """For process `pid` and all below it, over `seconds`: the cores that each takes, its title, and its stacks."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    before = {process: _seconds(process) for process in processes}
    time.sleep(1)
    busy = [process for process in processes if _seconds(process) - before[process] > _LEAST]
    before = {process: _seconds(process) for process in busy}
    began = time.monotonic()
    time.sleep(seconds)  # before py-spy comes, which takes some of the cores itself
    passed = time.monotonic() - began
    cores = {str(process.pid): (_seconds(process) - before[process]) / passed for process in busy}
    titles = {str(process.pid): _title(process) for process in busy}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--format", "raw",
                   "--rate", str(RATE), "--duration", f"{seconds:g}"]  # fmt: skip
        files = {process: Path(folder, f"{process.pid}.txt") for process in busy}
        samplers = [
            subprocess.Popen([*command, "--output", str(file), "--pid", str(process.pid)], stdout=subprocess.DEVNULL)
            for process, file in files.items()
        ]
        for sampler in samplers:
            sampler.wait(seconds + _PATIENCE)
        stacks = [
            stack
            for process, file in files.items()
            if file.is_file()  # py-spy can't read a process that is no Python's
            for stack in stacks_of(str(process.pid), file.read_text().splitlines())
        ]
    return cores, titles, stacks


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it has just ended
        return 0.0
    return float(times.user + times.system)


def _title(process: psutil.Process) -> str:
    try:
        return title_of(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return "ended"


def stacks_of(process: str, lines: Iterable[str]) -> Iterator[Stack]:
    """The stacks in py-spy's raw format."""
    for line in lines:
        text, _, count = line.rpartition(" ")
        frames = [shown for frame in text.split(";") if (shown := _frame(frame)) is not None]
        yield process, frames, int(count)


def _frame(text: str) -> str | None:
    match = _FRAME.match(text)
    if match is None:  # the name of a process or a thread
        return None
    return f"{match['function']} ({match['file'].rpartition('site-packages/')[2]})"


def title_of(arguments: list[str]) -> str:
    """What a process is, from its arguments: an actor's class, a module that was started, or a program."""
    program = arguments[0].strip()
    if "::" in program:  # a title that the process gave itself: Ray's actors and vLLM's engines do
        prefix, _, title = program.partition("::")
        return title.partition(".")[0] if prefix == "ray" else program
    module = arguments.index("-m") + 1 if "-m" in arguments else 0
    return arguments[module] if module else Path(program).name


def costs(cores: dict[str, float], titles: dict[str, str], stacks: list[Stack]) -> dict[str, Any]:
    """The cores that each kind of process takes, and its most costly functions as shares of its samples."""
    total, within = Counter[str](), defaultdict[str, Counter[str]](Counter)
    calls = defaultdict[str, Counter[tuple[str, str]]](Counter)
    for process, frames, count in stacks:
        title = titles[process]
        total[title] += count
        for frame in set(frames):
            within[title][frame] += count
        for call in set(pairwise(frames)):
            calls[title][call] += count
    taken: dict[str, float] = defaultdict(float)
    for process, share in cores.items():
        taken[titles[process]] += share
    processes = {}
    for title, share in sorted(taken.items(), key=lambda item: -item[1]):
        passed_on = {
            caller
            for (caller, called), here in calls[title].items()
            if caller != called and here >= _PASSED_ON * within[title][caller]
        }
        told = [(name, here) for name, here in within[title].most_common() if name not in passed_on]
        processes[title] = {
            "cores": round(share, 3),
            "functions": {name: round(here / total[title], 3) for name, here in told[:_LISTED]},
        }
    return processes


if __name__ == "__main__":
    main()
