"""A MAVIC update beside TRL's GRPO update: `python -m benchmarks.rl_step MODEL DATA --trl PYTHON [--repeats 3]`.

MODEL and DATA are a fine-tuned policy and a prepared folder, such as the demo's `sft/checkpoints/latest/model` and
`data`. PYTHON is the interpreter of an environment that has TRL as well (`benchmarks/README.md`). Both train the same
adapter on the same prompts, with the same group size, lengths, precision and reward: ours with completions at most one
update old, so that one engine and one learner rank are at work at the same time, and adapters merged into the engine's
weights, TRL once as one process with all cores, once as one process a core. All three are started and then run in
turns, the others stopped meanwhile, until each has had so many seconds. The rates are those of updates that a turn
holds whole; start-up and the first updates are left out. Then the parts of ours do the same work alone: a bare engine
with all cores, and bare engines, a process a core, answer prompts in one call, without an adapter as the merged ones
do, and learner ranks, a process a core and without Ray, make the same updates from the completions that the run
recorded. Writes `benchmarks/results/rl_step.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.environment import training_environment
from benchmarks import rollout
from benchmarks.beside_trl import ARMS, arguments_of, compare, entries_of, start_trl
from benchmarks.load import free_port
from benchmarks.turns import Span, killed, pause, take_turns, updates_per_second, wait_for_updates
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig

_WARM_UP = 3
_TURN = 15.0
"""Seconds, which several updates need."""
_BARE_UPDATES = 8
"""Measured of the learner ranks alone."""
STAGE = Path("configs/demo/mavic.yaml")


def main() -> None:
    arguments = arguments_of(__doc__.splitlines()[0], seconds=75.0)
    config = load(MavicConfig, STAGE)
    samples = config.batch_groups * config.rollout.group_size
    compare(
        "rl_step",
        f"--seconds {arguments.seconds:g}",
        arguments.repeats,
        lambda scratch, seed: in_turns(arguments, scratch, seed, samples),
        samples_per_update=samples,
    )


def in_turns(arguments: argparse.Namespace, scratch: Path, seed: int, samples: int) -> dict[str, dict[str, Any]]:
    """Rates, reward at the end and peak memory of every arm; of ours, beside what its parts take alone."""
    outs = {arm: scratch / f"{arm}.jsonl" for arm in ARMS} | {"dermoray": scratch / "run/metrics.jsonl"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    began: dict[str, Span] = {}
    with killed(running):
        for arm, out in outs.items():
            running[arm] = start(arm, arguments, scratch, out, seed)
            wait_for_updates(running[arm], arm, out, _WARM_UP)
            pause(running[arm].pid)
            began[arm] = (entries_of(out)[0]["time"], time.time())
        turns, memory = take_turns(running, _TURN, arguments.seconds)
    found = {}
    for arm, out in outs.items():
        entries = [
            (entry["time"], entry.get("reward/total", entry.get("reward")), entry["completion_tokens"])
            for entry in entries_of(out)
            if entry["time"] <= turns[arm][-1][1]
        ]
        times, rewards, lengths = zip(*entries, strict=True)
        rate = samples * updates_per_second(times, turns[arm])
        found[arm] = {
            "seed": seed,
            "updates": len(times),
            "samples_per_second": rate,
            "tokens_per_second": rate * statistics.mean(lengths[_WARM_UP:]),
            "reward_of_the_last_ten": statistics.mean(rewards[-10:]),
            "peak_memory_gib": round(memory[arm], 2),
            "curve": [
                [round(seconds_in(time, [began[arm], *turns[arm]]), 2), round(reward, 4)]
                for time, reward in zip(times, rewards, strict=True)
            ],
        }
    ours = found["dermoray"]
    tokens = samples * ours["tokens_per_second"] / ours["samples_per_second"]
    ours |= bare_parts(arguments, scratch, tokens, samples / ours["samples_per_second"])
    return found


def start(arm: str, arguments: argparse.Namespace, scratch: Path, out: Path, seed: int) -> subprocess.Popen[bytes]:
    """Start an arm, which makes updates until it is killed and writes each to `out`."""
    if arm != "dermoray":
        return start_trl(arm, "benchmarks.trl_grpo", arguments, out, f"--seed={seed}")
    settings = [
        f"run={scratch / 'run'}",
        f"data={arguments.data}",
        f"model.path={arguments.model}",
        f"seed={seed}",
        "steps=100000",
        "reward.concepts=null",
        "max_staleness=1",
        "rollout.workers=1",
        "learner.workers=1",
        "rollout.merge_adapters=true",
        "learner.optimizer.schedule=constant",
        "checkpoint_every=100000",
    ]
    return subprocess.Popen([sys.executable, "-m", "jobs.mavic", str(STAGE), *settings])


def seconds_in(moment: float, spans: Sequence[Span]) -> float:
    """How many seconds of `spans` are before a moment."""
    return sum(max(0.0, min(moment, ended) - began) for began, ended in spans)


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
