"""An update of `jobs.sft` beside one of TRL's `SFTTrainer`: `python -m benchmarks.sft_step MODEL DATA --trl PYTHON`.

MODEL and DATA are the demo's `base` and `data`; PYTHON is the interpreter of an environment that has TRL as well
(`benchmarks/README.md`). Both make the same number of updates of all weights, in float32, on the same conversations
with the same batch size and schedule; TRL once as one process with all cores, once as one process a core. The arms take
turns. The first updates are left out of the rates. Writes `benchmarks/results/sft_step.json`.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.beside_trl import arguments_of, compare, entries_of, run_trl
from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig
from jobs.memory import PeakMemory

_WARM_UP = 10
STAGE = Path("configs/demo/sft.yaml")


def main() -> None:
    arguments = arguments_of(__doc__.splitlines()[0], steps=150)
    batch = load(SftConfig, STAGE).batch_size
    compare(
        "sft_step",
        f"--steps {arguments.steps}",
        arguments.repeats,
        lambda arm, scratch, seed: one_run(arm, arguments, scratch, seed, batch),
        batch_size=batch,
    )


def one_run(arm: str, arguments: argparse.Namespace, scratch: Path, seed: int, batch: int) -> dict[str, Any]:
    """Rate, loss at the end and peak memory of one arm."""
    out = scratch / "updates.jsonl"
    with PeakMemory() as memory:
        if arm == "dermoray":
            out = scratch / "run/metrics.jsonl"
            settings = [
                f"run={scratch / 'run'}",
                f"data={arguments.data}",
                f"model.path={arguments.model}",
                f"seed={seed}",
                f"steps={arguments.steps}",
                "validation.every=0",
            ]
            subprocess.run([sys.executable, "-m", "jobs.sft", str(STAGE), *settings], check=True)
        else:
            run_trl(arm, "benchmarks.trl_sft", arguments, out, f"--steps={arguments.steps}", f"--seed={seed}")
    entries = entries_of(out)
    seconds = entries[-1]["time"] - entries[_WARM_UP - 1]["time"]
    return {
        "seed": seed,
        "samples_per_second": (len(entries) - _WARM_UP) * batch / seconds,
        "loss_of_the_last_twenty": statistics.mean(entry["loss"] for entry in entries[-20:]),
        "peak_memory_gib": round(memory.gib, 2),
    }


if __name__ == "__main__":
    main()
