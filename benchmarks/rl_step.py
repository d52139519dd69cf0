"""A MAVIC update beside TRL's GRPO update: `python -m benchmarks.rl_step MODEL DATA --trl PYTHON [--repeats 3]`.

MODEL and DATA are a fine-tuned policy and a prepared folder, such as the demo's `sft/checkpoints/latest/model` and
`data`. PYTHON is the interpreter of an environment that has TRL as well (`benchmarks/README.md`). Both train the same
adapter on the same prompts, with the same group size, lengths, precision and reward, for so many seconds from the
first update on; TRL once as one process with all cores, once as one process a core. The arms take turns. Start-up is
not counted on either side, and the first updates are left out of the rates. Writes `benchmarks/results/rl_step.json`.
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
from dermo_ray.config.mavic import MavicConfig
from jobs.memory import PeakMemory

_WARM_UP = 3
STAGE = Path("configs/demo/mavic.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trl", type=Path, required=True, help="interpreter that has TRL")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = load(MavicConfig, STAGE)
    samples = config.batch_groups * config.rollout.group_size
    runs: dict[str, list[dict[str, Any]]] = {"dermoray": [], "trl": [], "trl_ddp": []}
    for seed in range(arguments.repeats):
        for arm, measured in runs.items():
            with tempfile.TemporaryDirectory() as scratch:
                measured.append(one_run(arm, arguments, Path(scratch), seed, samples))
            print(arm, json.dumps({key: value for key, value in measured[-1].items() if key != "curve"}), flush=True)
    rate = {arm: statistics.median(run["samples_per_second"] for run in measured) for arm, measured in runs.items()}
    result = {
        "command": f"python -m benchmarks.rl_step MODEL DATA --trl PYTHON --seconds {arguments.seconds:g} "
        f"--repeats {arguments.repeats}",
        "machine": describe(),
        "samples_per_update": samples,
        "runs": runs,
        "median_samples_per_second": rate,
        "times_trl": rate["dermoray"] / max(rate["trl"], rate["trl_ddp"]),
    }
    (RESULTS / "rl_step.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"median_samples_per_second": rate, "times_trl": result["times_trl"]}))


def one_run(arm: str, arguments: argparse.Namespace, scratch: Path, seed: int, samples: int) -> dict[str, Any]:
    """Rates, reward at the end and peak memory of one arm."""
    out = scratch / "updates.jsonl"
    with PeakMemory(interval=2) as memory:
        if arm == "dermoray":
            entries = train(arguments, scratch / "run", seed)
        else:
            cores = os.cpu_count() or 1
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={cores}"]
            command = [
                str(arguments.trl),
                *(launcher if arm == "trl_ddp" else []),
                *("-m", "benchmarks.trl_grpo", str(arguments.model), str(arguments.data), str(out)),
                *(f"--seconds={arguments.seconds}", f"--seed={seed}"),
            ]
            threads = {"OMP_NUM_THREADS": str(1 if arm == "trl_ddp" else cores)}
            subprocess.run(command, check=True, env=os.environ | threads, stdout=subprocess.DEVNULL)
            entries = [json.loads(line) for line in out.read_text().splitlines()]
    first, last = entries[_WARM_UP - 1], entries[-1]
    updates, seconds = len(entries) - _WARM_UP, last["seconds"] - first["seconds"]
    tokens = sum(entry["completion_tokens"] for entry in entries[_WARM_UP:]) * samples
    return {
        "seed": seed,
        "updates": len(entries),
        "samples_per_second": updates * samples / seconds,
        "tokens_per_second": tokens / seconds,
        "reward_of_the_last_ten": statistics.mean(entry["reward"] for entry in entries[-10:]),
        "peak_memory_gib": round(memory.gib, 2),
        "curve": [[round(entry["seconds"], 2), round(entry["reward"], 4)] for entry in entries],
    }


def train(arguments: argparse.Namespace, run: Path, seed: int) -> list[dict[str, float]]:
    """Our updates, as many as the time is sure to allow for; those after its end are left out."""
    settings = [
        f"run={run}",
        f"data={arguments.data}",
        f"model.path={arguments.model}",
        f"seed={seed}",
        f"steps={round(arguments.seconds / 2)}",
        "reward.concepts=null",
        "learner.optimizer.schedule=constant",
        "checkpoint_every=100000",
    ]
    subprocess.run([sys.executable, "-m", "jobs.mavic", str(STAGE), *settings], check=True)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    began = entries[0]["time"] - entries[0]["seconds/wait_rollout"] - entries[0]["seconds/update"]
    return [
        {
            "seconds": entry["time"] - began,
            "reward": entry["reward/total"],
            "completion_tokens": entry["completion_tokens"],
        }
        for entry in entries
        if entry["time"] - began <= arguments.seconds
    ]


if __name__ == "__main__":
    main()
