"""Whether learning from completions an update old costs the demo anything: `python -m benchmarks.staleness DEMO ...`.

Each DEMO is the folder of a finished `jobs.demo` of another seed. Its own MAVIC run is the synchronous one
(max_staleness 0); the same run is made asynchronously (1) from the same start, with the same seed and settings, and
both are measured on the same held-out prompts. Writes `benchmarks/results/staleness.json`: each seed's final held-out
reward by mode, the mean difference, and the seeds' standard deviation, which is the noise to compare it with. The two
runs of a seed are not made side by side, so no speeds: `benchmarks.overlap` measures those. What an earlier call made
is read, not made again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.machine import describe
from dermo_ray import rollouts

RESULT = Path("benchmarks/results/staleness.json")
STARTS = {"model.path": "sft", "reward.concepts": "concepts"}
"""The settings of MAVIC that name a model, and the stage of the demo that made it."""


def asynchronous(demo: Path, seed: int) -> Path:
    """The demo's MAVIC run, made asynchronously and measured, unless an earlier call made it."""
    run = Path(f"runs/staleness-{demo.name}")
    if (run / "evaluation/mavic.parquet").exists():
        return run
    shutil.rmtree(run, ignore_errors=True)
    common = [f"run={run}", f"data={demo / 'data'}", f"seed={seed}"]
    start = [f"{key}={demo / name / 'checkpoints/latest/model'}" for key, name in STARTS.items()]
    for job, settings in {"mavic": [*start, "max_staleness=1"], "evaluate": []}.items():
        command = [sys.executable, "-m", f"jobs.{job}", f"configs/demo/{job}.yaml", *common, *settings]
        subprocess.run(command, check=True)
    return run


def figures(run: Path) -> dict[str, float]:
    """Final held-out reward, and how the run went."""
    written = rollouts.read(run / "evaluation/mavic.parquet")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "reward_heldout": fmean(row.reward for row in written if not row.greedy),
        "reward_greedy": fmean(row.reward for row in written if row.greedy),
        "staleness": fmean(entry["staleness/mean"] for entry in metrics),
        "updates": float(len(metrics)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demos", nargs="+", type=Path, help="folders of demos, one for each seed")
    demos: list[Path] = parser.parse_args().demos
    seeds = [json.loads((demo / "summary.json").read_text())["seed"] for demo in demos]
    runs = {
        "synchronous": [demo / "mavic" for demo in demos],
        "asynchronous": [asynchronous(demo, seed) for demo, seed in zip(demos, seeds, strict=True)],
    }
    found = {mode: [figures(run) for run in of_seeds] for mode, of_seeds in runs.items()}
    rewards = {mode: [figure["reward_heldout"] for figure in of_seeds] for mode, of_seeds in found.items()}
    differences = [b - a for a, b in zip(rewards["synchronous"], rewards["asynchronous"], strict=True)]
    result: dict[str, Any] = {
        "command": "python -m benchmarks.staleness DEMO ...",
        "machine": describe(),
        "seeds": seeds,
        "figures": found,
        "differences": differences,
        "mean_difference": fmean(differences),
        "deviation_of_seeds": {mode: stdev(values) for mode, values in rewards.items() if len(values) > 1},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("mean_difference", "deviation_of_seeds")}, indent=2))


if __name__ == "__main__":
    main()
