"""An update of `jobs.sft` beside one of TRL's `SFTTrainer`: `python -m benchmarks.sft_step MODEL DATA --trl PYTHON`.

MODEL and DATA are the demo's `base` and `data`; PYTHON is the interpreter of an environment that has TRL as well
(`benchmarks/README.md`). Both make the same number of updates of all weights, in float32, on the same conversations
with the same batch size and schedule; TRL once as one process with all cores, once as one process a core. The arms take
turns. The first updates are left out of the rates. Writes `benchmarks/results/sft_step.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig
from jobs.memory import PeakMemory

_WARM_UP = 10
STAGE = Path("configs/demo/sft.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trl", type=Path, required=True, help="interpreter that has TRL")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    batch = load(SftConfig, STAGE).batch_size
    runs: dict[str, list[dict[str, Any]]] = {"dermoray": [], "trl": [], "trl_ddp": []}
    for seed in range(arguments.repeats):
        for arm, measured in runs.items():
            with tempfile.TemporaryDirectory() as scratch:
                measured.append(one_run(arm, arguments, Path(scratch), seed, batch))
            print(arm, json.dumps(measured[-1]), flush=True)
    rate = {arm: statistics.median(run["samples_per_second"] for run in measured) for arm, measured in runs.items()}
    result = {
        "command": f"python -m benchmarks.sft_step MODEL DATA --trl PYTHON --steps {arguments.steps} "
        f"--repeats {arguments.repeats}",
        "machine": describe(),
        "batch_size": batch,
        "runs": runs,
        "median_samples_per_second": rate,
        "times_trl": rate["dermoray"] / max(rate["trl"], rate["trl_ddp"]),
    }
    (RESULTS / "sft_step.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"median_samples_per_second": rate, "times_trl": result["times_trl"]}))


def one_run(arm: str, arguments: argparse.Namespace, scratch: Path, seed: int, batch: int) -> dict[str, Any]:
    """Rate, loss at the end and peak memory of one arm."""
    out = scratch / "updates.jsonl"
    cores = os.cpu_count() or 1
    if arm == "dermoray":
        settings = [
            f"run={scratch / 'run'}",
            f"data={arguments.data}",
            f"model.path={arguments.model}",
            f"seed={seed}",
            f"steps={arguments.steps}",
            "validation.every=0",
        ]
        command = [sys.executable, "-m", "jobs.sft", str(STAGE), *settings]
        threads = {}
        out = scratch / "run/metrics.jsonl"
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={cores}"]
        command = [
            str(arguments.trl),
            *(launcher if arm == "trl_ddp" else []),
            *("-m", "benchmarks.trl_sft", str(arguments.model), str(arguments.data), str(out)),
            *(f"--steps={arguments.steps}", f"--seed={seed}"),
        ]
        threads = {"OMP_NUM_THREADS": str(1 if arm == "trl_ddp" else cores)}
    with PeakMemory(interval=2) as memory:
        subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    seconds = entries[-1]["time"] - entries[_WARM_UP - 1]["time"]
    return {
        "seed": seed,
        "samples_per_second": (len(entries) - _WARM_UP) * batch / seconds,
        "loss_of_the_last_twenty": statistics.mean(entry["loss"] for entry in entries[-20:]),
        "peak_memory_gib": round(memory.gib, 2),
    }


if __name__ == "__main__":
    main()
