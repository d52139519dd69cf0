"""Whether learning from completions an update old costs the demo anything: `python -m benchmarks.staleness DEMO`.

`DEMO` is the folder of a finished `jobs.demo`: its data, its fine-tuned policy and its concept model are used. For each
seed, the demo's MAVIC run is made synchronously (max_staleness 0) and asynchronously (1) from the same start, and both
are measured on held-out prompts. Writes `benchmarks/results/staleness.json`: each seed's final held-out reward, wall
time and samples a second by mode, the mean difference, and the seeds' standard deviation, which is the noise to compare
it with. What an earlier call with the same settings measured is read, not run again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.machine import describe
from dermo_ray import rollouts

RESULT = Path("benchmarks/results/staleness.json")
MODES = {"synchronous": 0, "asynchronous": 1}
STARTS = {"model.path": "sft", "reward.concepts": "concepts"}
"""The settings of MAVIC that name a model, and the stage of the demo that made it."""


def measure(demo: Path, max_staleness: int, seed: int, extra: list[str]) -> dict[str, float]:
    """One run and its evaluation, or what an earlier call with the same settings measured."""
    run = Path(f"runs/staleness-{max_staleness}-seed{seed}")
    measured, asked = run / "measured.json", [str(demo), *extra]
    if measured.exists() and (kept := json.loads(measured.read_text()))["asked"] == asked:
        found: dict[str, float] = kept["figures"]
        return found
    shutil.rmtree(run, ignore_errors=True)
    common = [f"run={run}", f"data={demo / 'data'}", f"seed={seed}"]
    began = time.monotonic()
    start = [f"{key}={demo / name / 'checkpoints/latest/model'}" for key, name in STARTS.items()]
    _job("mavic", "configs/demo/mavic.yaml", *common, *start, f"max_staleness={max_staleness}", *extra)
    seconds = time.monotonic() - began
    _job("evaluate", "configs/demo/evaluate.yaml", *common)
    written = rollouts.read(run / "evaluation/mavic.parquet")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {
        "reward_heldout": fmean(row.reward for row in written if not row.greedy),
        "wall_seconds": seconds,
        "samples_per_second": fmean(entry["samples_per_second"] for entry in metrics[1:]),
        "staleness": fmean(entry["staleness/mean"] for entry in metrics),
    }
    measured.write_text(json.dumps({"asked": asked, "figures": found}))
    return found


def _job(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"jobs.{name}", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="more settings of jobs.mavic, such as steps=20")
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in MODES}
    for seed in arguments.seeds:
        for name, staleness in MODES.items():
            figures[name].append(measure(arguments.demo, staleness, seed, arguments.set))
    rewards = {name: [figure["reward_heldout"] for figure in of_seeds] for name, of_seeds in figures.items()}
    differences = [b - a for a, b in zip(rewards["synchronous"], rewards["asynchronous"], strict=True)]
    result: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.staleness", *sys.argv[1:]]),
        "machine": describe(),
        "seeds": arguments.seeds,
        "figures": figures,
        "difference_of_means": fmean(differences),
        "deviation_of_seeds": {name: stdev(values) for name, values in rewards.items() if len(values) > 1},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["difference_of_means"]), json.dumps(result["deviation_of_seeds"]))


if __name__ == "__main__":
    main()
