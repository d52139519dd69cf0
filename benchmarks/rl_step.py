"""A MAVIC update beside TRL's GRPO update: `python -m benchmarks.rl_step MODEL DATA --trl PYTHON [--repeats 3]`.

MODEL and DATA are a fine-tuned policy and a prepared folder, such as the demo's `sft/checkpoints/latest/model` and
`data`. PYTHON is the interpreter of an environment that has TRL as well (`benchmarks/README.md`). Both train the same
adapter on the same prompts, with the same group size, lengths, precision and reward, for so many seconds from the
first update on: ours with completions at most one update old and adapters merged into the engines' weights, TRL once as
one process with all cores, once as one process a core. The arms take turns. Start-up is not counted on either side, and
the first updates are left out of the rates. After each of our runs its parts do the same work alone: a bare engine with
all cores, and bare engines, a process a core, answer prompts in one call, without an adapter as the merged ones do, and
the learner ranks, without Ray, make the same updates from the completions that the run recorded. Writes
`benchmarks/results/rl_step.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from actors.environment import training_environment
from benchmarks import rollout
from benchmarks.beside_trl import ARMS, arguments_of, compare, entries_of, start_trl
from benchmarks.load import free_port
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from jobs.memory import PeakMemory

_WARM_UP = 3
_BARE_UPDATES = 12
"""Measured of the learner ranks alone."""
STAGE = Path("configs/demo/mavic.yaml")


def main() -> None:
    arguments = arguments_of(__doc__.splitlines()[0], seconds=90.0)
    config = load(MavicConfig, STAGE)
    samples = config.batch_groups * config.rollout.group_size
    compare(
        "rl_step",
        f"--seconds {arguments.seconds:g}",
        arguments.repeats,
        lambda scratch, seed: {arm: one_run(arm, arguments, scratch / arm, seed, samples) for arm in ARMS},
        samples_per_update=samples,
    )


def one_run(arm: str, arguments: argparse.Namespace, scratch: Path, seed: int, samples: int) -> dict[str, Any]:
    """Rates, reward at the end and peak memory of one arm."""
    scratch.mkdir()
    out = scratch / "updates.jsonl"
    with PeakMemory() as memory:
        if arm == "dermoray":
            entries = train(arguments, scratch / "run", seed)
        else:
            settings = (f"--seconds={arguments.seconds}", f"--seed={seed}")
            trainer = start_trl(arm, "benchmarks.trl_grpo", arguments, out, *settings)
            if trainer.wait():
                raise RuntimeError(f"{arm} failed with status {trainer.returncode}")
            entries = entries_of(out)
    first, last = entries[_WARM_UP - 1], entries[-1]
    updates, seconds = len(entries) - _WARM_UP, last["seconds"] - first["seconds"]
    tokens = sum(entry["completion_tokens"] for entry in entries[_WARM_UP:]) * samples
    alone = bare_parts(arguments, scratch, tokens / updates, seconds / updates) if arm == "dermoray" else {}
    return {
        "seed": seed,
        "updates": len(entries),
        "samples_per_second": updates * samples / seconds,
        "tokens_per_second": tokens / seconds,
        "reward_of_the_last_ten": statistics.mean(entry["reward"] for entry in entries[-10:]),
        "peak_memory_gib": round(memory.gib, 2),
        **alone,
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
        "max_staleness=1",
        "rollout.merge_adapters=true",
        "learner.optimizer.schedule=constant",
        "checkpoint_every=100000",
    ]
    subprocess.run([sys.executable, "-m", "jobs.mavic", str(STAGE), *settings], check=True)
    entries = entries_of(run / "metrics.jsonl")
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


def bare_parts(arguments: argparse.Namespace, scratch: Path, tokens: float, seconds: float) -> dict[str, Any]:
    """Seconds that bare engines take for the `tokens` of an update, and bare learner ranks for the update.

    Also how many times as long as both our update took, in `seconds`.
    """
    model, data = arguments.model.absolute(), arguments.data.absolute()
    engines = {}
    for name in ("one_engine", "an_engine_a_core"):
        (scratch / name).mkdir()
        engines[name] = tokens / rollout.ARMS[name](model, data, scratch / name)
    port, steps = free_port(), _WARM_UP + _BARE_UPDATES
    learner = load(MavicConfig, STAGE).learner
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_learner", str(model), str(data), str(scratch / "run/rollouts"),
             str(scratch / f"rank-{rank}.json"), f"--rank={rank}", f"--port={port}", f"--steps={steps}"],
            env=os.environ | training_environment(learner),
        )
        for rank in range(learner.workers)
    ]  # fmt: skip
    if any([rank.wait() for rank in ranks]):
        raise RuntimeError("a bare learner rank failed")
    ended = json.loads((scratch / "rank-0.json").read_text())
    updates = (ended[-1] - ended[_WARM_UP - 1]) / _BARE_UPDATES
    return {
        "bare_engines_seconds": engines,
        "bare_learner_seconds": updates,
        "times_the_bare_parts": {name: seconds / (alone + updates) for name, alone in engines.items()},
    }


if __name__ == "__main__":
    main()
