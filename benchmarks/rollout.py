"""The rollout pool beside vLLM alone: `python -m benchmarks.rollout MODEL DATA [--repeats 3]`.

MODEL and DATA are a fine-tuned policy and a prepared folder, such as the demo's `sft/checkpoints/latest/model` and
`data`. Ours is `jobs.mavic` with `mode=rollout_only`: engines in Ray actors, rewards, ledger and rollouts on disk, all
that a run does but learn. The others answer the same prompts, as many samples each, by `LLM.generate` in one call: once
as one process with all cores, once as one process a core that shares the prompts. None has an adapter. The arms take
turns; start-up is not counted. Writes `benchmarks/results/rollout.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.beside_trl import entries_of
from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig

STAGE = Path("configs/demo/mavic.yaml")
BATCHES = 24
"""Measured of ours."""
_WARM_UP = 4
"""Batches of ours before, in which engines meet prompts for the first time."""


def ours(model: Path, data: Path, scratch: Path) -> float:
    """Tokens a second of the rollout pool, rewards and bookkeeping included."""
    config = load(MavicConfig, STAGE)
    settings = [
        f"run={scratch / 'run'}", f"data={data}", f"model.path={model}", "mode=rollout_only", "max_staleness=2",
        f"steps={_WARM_UP + BATCHES}", "reward.concepts=null", "lora=null",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "jobs.mavic", str(STAGE), *settings], check=True)
    entries = entries_of(scratch / "run/metrics.jsonl")
    measured = entries[_WARM_UP:]
    completions = config.batch_groups * config.rollout.group_size
    tokens = sum(entry["completion_tokens"] for entry in measured) * completions
    return tokens / (measured[-1]["time"] - entries[_WARM_UP - 1]["time"])


def bare(model: Path, data: Path, scratch: Path, processes: int) -> float:
    """Tokens a second of vLLM's offline engines."""
    groups = BATCHES * load(MavicConfig, STAGE).batch_groups // processes
    threads = (os.cpu_count() or 1) // processes
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_engine", str(model), str(data), str(scratch),
             f"--first={1 + number * groups}", f"--groups={groups}", f"--processes={processes}"],
            # here, since it is read before the module's first line; threads that spin would starve the other engine
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        for number in range(processes)
    ]  # fmt: skip
    if any([process.wait() for process in running]):
        raise RuntimeError("a bare engine failed")
    found = [json.loads(path.read_text()) for path in scratch.glob("*.json")]
    seconds = max(part["ended"] for part in found) - min(part["began"] for part in found)
    return float(sum(part["tokens"] for part in found) / seconds)


ARMS: dict[str, Callable[[Path, Path, Path], float]] = {
    "dermoray": ours,
    "one_engine": lambda model, data, scratch: bare(model, data, scratch, 1),
    "an_engine_a_core": lambda model, data, scratch: bare(model, data, scratch, os.cpu_count() or 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(arguments.repeats):
        for name, arm in ARMS.items():
            with tempfile.TemporaryDirectory() as scratch:
                speeds[name].append(arm(arguments.model.absolute(), arguments.data.absolute(), Path(scratch)))
            print(name, round(speeds[name][-1]), "tokens/s", flush=True)
    middle = {name: median(values) for name, values in speeds.items()}
    result = {
        "command": f"python -m benchmarks.rollout MODEL DATA --repeats {arguments.repeats}",
        "machine": describe(),
        "tokens_per_second": speeds,
        "share_of_bare_engines": {name: middle["dermoray"] / middle[name] for name in ARMS if name != "dermoray"},
    }
    (RESULTS / "rollout.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["share_of_bare_engines"]))


if __name__ == "__main__":
    main()
