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
from pathlib import Path
from typing import Any

from benchmarks.beside_trl import ARMS, arguments_of, compare, entries_of, start_trl
from benchmarks.turns import killed, pause, take_turns, updates_per_second, wait_for_updates
from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig

_WARM_UP = 5
_TURN = 8.0
"""Seconds."""
STAGE = Path("configs/demo/sft.yaml")


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
    with killed(running):
        for arm, out in outs.items():
            running[arm] = start(arm, arguments, scratch, out, seed)
            wait_for_updates(running[arm], arm, out, _WARM_UP)
            pause(running[arm].pid)
        turns, memory = take_turns(running, _TURN)
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


if __name__ == "__main__":
    main()
