"""An update of `jobs.sft` beside one of TRL's `SFTTrainer`: `python -m benchmarks.sft_step MODEL DATA --trl PYTHON`.

MODEL and DATA are the demo's `base` and `data`; PYTHON is the interpreter of an environment that has TRL as well
(`benchmarks/README.md`). Both make the same number of updates of all weights, in float32, on the same conversations
with the same batch size and schedule; TRL once as one process with all cores, once as one process a core. All three are
started and then run in turns of a few seconds, the others stopped meanwhile, until each has made its updates. The rates
are those of updates that a turn holds whole; start-up and the first updates are left out. Writes
`benchmarks/results/sft_step.json`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.beside_trl import ARMS, arguments_of, compare, entries_of, start_trl
from benchmarks.turns import kill, pause, resume
from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig
from jobs.memory import memory_gib

_WARM_UP = 5
_TURN = 8.0
"""Seconds."""
_START_TIMEOUT = 300.0
"""Seconds that an arm may take until its first updates are made."""
STAGE = Path("configs/demo/sft.yaml")

Span = tuple[float, float]
"""When a turn began and when it ended."""


def main() -> None:
    arguments = arguments_of(__doc__.splitlines()[0], steps=150)
    batch = load(SftConfig, STAGE).batch_size
    compare(
        "sft_step",
        f"--steps {arguments.steps}",
        arguments.repeats,
        lambda scratch, seed: in_turns(arguments, scratch, seed, batch),
        batch_size=batch,
    )


def in_turns(arguments: argparse.Namespace, scratch: Path, seed: int, batch: int) -> dict[str, dict[str, Any]]:
    """Rate, loss at the end and peak memory of every arm."""
    outs = {arm: scratch / f"{arm}.jsonl" for arm in ARMS} | {"dermoray": scratch / "run/metrics.jsonl"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    memory = dict.fromkeys(ARMS, 0.0)
    turns: dict[str, list[Span]] = {arm: [] for arm in ARMS}
    try:
        for arm, out in outs.items():
            running[arm] = start(arm, arguments, scratch, out, seed)
            _wait_for_updates(running[arm], arm, out)
            pause(running[arm].pid)
        while living := [arm for arm in ARMS if running[arm].poll() is None]:
            for arm in living:
                pid = running[arm].pid
                began = time.time()
                resume(pid)
                if _ended(running[arm], arm, _TURN):
                    continue
                turns[arm].append((began, time.time()))
                memory[arm] = max(memory[arm], memory_gib(pid))
                pause(pid)
    finally:
        for process in running.values():
            if process.poll() is None:
                kill(process.pid)
    return {
        arm: {
            "seed": seed,
            "samples_per_second": batch * updates_per_second([entry["time"] for entry in entries], turns[arm]),
            "loss_of_the_last_twenty": statistics.mean(entry["loss"] for entry in entries[-20:]),
            "peak_memory_gib": round(memory[arm], 2),
        }
        for arm, entries in ((arm, entries_of(out)) for arm, out in outs.items())
    }


def start(arm: str, arguments: argparse.Namespace, scratch: Path, out: Path, seed: int) -> subprocess.Popen[bytes]:
    """Start an arm, which writes `out`."""
    if arm != "dermoray":
        return start_trl(arm, "benchmarks.trl_sft", arguments, out, f"--steps={arguments.steps}", f"--seed={seed}")
    settings = [
        f"run={scratch / 'run'}",
        f"data={arguments.data}",
        f"model.path={arguments.model}",
        f"seed={seed}",
        f"steps={arguments.steps}",
        "validation.every=0",
    ]
    return subprocess.Popen([sys.executable, "-m", "jobs.sft", str(STAGE), *settings])


def _ended(process: subprocess.Popen[bytes], arm: str, seconds: float) -> bool:
    """Whether the arm ends within `seconds`; raises `RuntimeError` where it fails."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    if status:
        raise RuntimeError(f"{arm} ended with status {status}")
    return True


def _wait_for_updates(process: subprocess.Popen[bytes], arm: str, out: Path) -> None:
    """Return once the first updates are made."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not (out.exists() and len(entries_of(out)) >= _WARM_UP):
        if _ended(process, arm, 0.5):
            raise RuntimeError(f"{arm} ended before update {_WARM_UP}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{arm} made no {_WARM_UP} updates within {_START_TIMEOUT:g} s")


def updates_per_second(times: Sequence[float], turns: Sequence[Span]) -> float:
    """Of the updates that ended at `times`: the rate of those that began and ended in one turn."""
    within = [[time for time in times if began <= time <= ended] for began, ended in turns]
    seconds = [after - before for turn in within for before, after in pairwise(turn)]
    return len(seconds) / sum(seconds)


if __name__ == "__main__":
    main()
