"""Where the time of a command goes, over all its processes: `python -m benchmarks.profiles NAME -- COMMAND`.

Samples the Python stacks of the command and of all it starts with py-spy, threads that wait and imports left out, and
adds to `benchmarks/results/profiles.json`, under NAME, what each kind of process spent: its share of all samples, and
the functions in which most of its own were taken, those included that they called. The measurements of a name stay in
order, each with what was changed before it (`--note`), so that the last two are before and after.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.demo import RESULTS
from benchmarks.machine import describe

RATE = 20
"""Samples a second."""
ROLES = {
    "vllm/v1/engine/core.py": "engine: the model",
    "actors/learner.py": "learner rank",
    "actors/supervised.py": "learner rank",
    "serve/ingress.py": "serve: ingress",
    "serve/replica.py": "serve: replica beside its engine",
    "serve/manager.py": "serve: manager",
    "serve/_private/proxy.py": "serve: proxy",
    "serve/_private/controller.py": "serve: controller",
    "actors/rollout.py": "rollout worker beside its engine",
    "actors/engine.py": "rollout worker beside its engine",
    "actors/reward.py": "reward worker",
    "trl/trainer": "TRL",
    "benchmarks/": "benchmark",
    "jobs/": "driver",
}
"""What a process is, by a part of the path of a file whose code it runs; the first that is found counts."""
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(:\d+)?\)$")
_ENDS = re.compile(r"\) \d+$")
_IMPORT = "importlib._bootstrap"
_TRUNK = 0.9
"""Functions that most of a process's samples are in say nothing."""
_LISTED = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what is profiled, such as a benchmark")
    parser.add_argument("--note", default="", help="what was changed since the measurement before")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "stacks.txt")
        sampler = [
            str(Path(sys.executable).with_name("py-spy")),
            "record",
            "--subprocesses",
            "--nonblocking",
            "--rate",
            str(RATE),
            "--format",
            "raw",
        ]
        subprocess.run([*sampler, "--output", str(raw), "--", *arguments.command], check=True)
        stacks = list(stacks_of(raw.read_text().splitlines()))
    found = {"command": " ".join(arguments.command), "note": arguments.note, "machine": describe(), **costs(stacks)}
    path = RESULTS / "profiles.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {
        "command": "python -m benchmarks.profiles NAME -- COMMAND", "profiles": {}
    }  # fmt: skip
    results["profiles"].setdefault(arguments.name, []).append(found)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(found["processes"], indent=2))


def stacks_of(lines: Iterable[str]) -> Iterator[tuple[str, list[str], int]]:
    """Process, frames from the outermost on as `function (file)`, and samples, of py-spy's raw format."""
    begun = ""
    for line in lines:
        begun += line
        if _ENDS.search(begun) is None:  # the command of a process may have several lines
            continue
        text, _, count = begun.rpartition(" ")
        begun = ""
        process, *frames = text.split(";")
        if _IMPORT not in text:
            yield process, [shown for frame in frames if (shown := _frame(frame)) is not None], int(count)


def _frame(text: str) -> str | None:
    match = _FRAME.match(text)
    if match is None:  # the name of a process or a thread
        return None
    return f"{match['function']} ({match['file'].rpartition('site-packages/')[2]})"


def costs(stacks: list[tuple[str, list[str], int]]) -> dict[str, Any]:
    """Samples altogether and, for each kind of process, its share and its most costly functions."""
    frames_of: dict[str, set[str]] = defaultdict(set)
    for process, frames, _ in stacks:
        frames_of[process].update(frames)
    roles = {process: _role(frames) for process, frames in frames_of.items()}
    total, within = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for process, frames, count in stacks:
        total[roles[process]] += count
        for frame in set(frames):
            within[roles[process]][frame] += count
    everything = max(1, total.total())
    processes = {}
    for role, count in total.most_common():
        informative = [(name, here) for name, here in within[role].most_common() if here < _TRUNK * count]
        processes[role] = {
            "share": round(count / everything, 3),
            "functions": {name: round(here / count, 3) for name, here in informative[:_LISTED]},
        }
    return {"samples": everything, "processes": processes}


def _role(frames: Iterable[str]) -> str:
    seen = list(frames)
    return next((role for part, role in ROLES.items() if any(part in frame for frame in seen)), "other")


if __name__ == "__main__":
    main()
