"""What the benchmarks beside TRL share: three arms that take turns, and the command line of TRL's."""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.demo import RESULTS
from benchmarks.machine import describe

ARMS = ("dermoray", "trl", "trl_ddp")
"""Ours, TRL's trainer as one process with all cores, and as one process a core."""


def arguments_of(description: str, **numbers: float) -> argparse.Namespace:
    """MODEL, DATA, --trl and --repeats, and a number with its default for each of `numbers`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trl", type=Path, required=True, help="interpreter that has TRL")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def compare(
    name: str, settings: str, repeats: int, all_arms: Callable[[Path, int], dict[str, dict[str, Any]]], **facts: Any
) -> None:
    """Measure all arms once a seed and write `results/NAME.json` after each; `settings` are those of the command.

    The summary is of medians over the seeds; how many times as fast ours was as the faster of TRL's is the median of
    what each seed gave.
    """
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            measured = all_arms(Path(scratch), seed)
        for arm, run in measured.items():
            runs[arm].append(run)
            print(arm, json.dumps({key: value for key, value in run.items() if key != "curve"}), flush=True)
        rates = {arm: [run["samples_per_second"] for run in measured] for arm, measured in runs.items()}
        summary = {
            "median_samples_per_second": {arm: statistics.median(rate) for arm, rate in rates.items()},
            "times_trl": statistics.median(
                ours / max(theirs) for ours, *theirs in zip(*(rates[arm] for arm in ARMS), strict=True)
            ),
        }
        command = f"python -m benchmarks.{name} MODEL DATA --trl PYTHON {settings} --repeats {seed + 1}"
        result = {"command": command, "machine": describe(), **facts, "runs": runs, **summary}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(summary), flush=True)


def start_trl(
    arm: str, module: str, arguments: argparse.Namespace, out: Path, *settings: str
) -> subprocess.Popen[bytes]:
    """Start TRL's arm, which writes `out`, in the interpreter that has it."""
    cores = os.cpu_count() or 1
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={cores}"]
    command = [
        str(arguments.trl),
        *(launcher if arm == "trl_ddp" else []),
        *("-m", module, str(arguments.model), str(arguments.data), str(out), *settings),
    ]
    threads = {"OMP_NUM_THREADS": str(1 if arm == "trl_ddp" else cores)}
    return subprocess.Popen(command, env=os.environ | threads, stdout=subprocess.DEVNULL)


def entries_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of metrics."""
    return [json.loads(line) for line in path.read_text().splitlines()]
