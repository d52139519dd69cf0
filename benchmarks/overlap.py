"""How much faster a run is that samples while it learns: `python -m benchmarks.overlap`.

A simulation: the real run controller over simulated pools (`benchmarks/simulated.py`) that sleep instead of working. In
every batch the completions' times are log-normal with their median at the time of an update and the slowest at four
times that, and a group takes as long as its slowest completion; loading weights takes a fiftieth of an update.
Synchronous (max_staleness 0) against asynchronous (1 and 2), and how well the shares of time add up to wall time.
Writes `benchmarks/results/overlap.json`. Simulated seconds say nothing of how long real engines and learners take.
"""

import asyncio
import json
import math
import random
import tempfile
import time
from functools import cache
from pathlib import Path
from statistics import NormalDist, fmean

from actors.accounts import RunAccounts
from actors.adapters import Published, Sent
from actors.controller import RunController
from actors.messages import Group, Prompt, Sampled, Sampling
from actors.progress import Progress
from benchmarks.machine import describe
from benchmarks.simulated import SimulatedLearners, SimulatedRewards, prompts, settings
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening

RESULT = Path("benchmarks/results/overlap.json")
UPDATE = 0.2
"""Seconds of an update, and of the median completion."""
SLOWEST = 4
"""Times that for the slowest completion of a batch."""
GROUPS, GROUP_SIZE = 16, 8
UPDATES = 18
FIRST = 2
"""Updates that are left out, while the pools fill."""
SEEDS = (0, 1, 2)


@cache
def group_seconds(seed: int, batch: int) -> list[float]:
    """How long each group of a batch takes."""
    count = GROUPS * GROUP_SIZE
    normal = [NormalDist().inv_cdf((rank + 0.5) / count) for rank in range(count)]
    times = [UPDATE * math.exp(math.log(SLOWEST) * value / normal[-1]) for value in normal]
    random.Random(f"{seed} {batch}").shuffle(times)
    return [max(times[start : start + GROUP_SIZE]) for start in range(0, count, GROUP_SIZE)]


class SimulatedRollouts:
    """Engines that sleep: a group takes as long as its place in its batch says, however many are under way."""

    def __init__(self, seed: int, accounts: RunAccounts) -> None:
        self._seed, self._accounts = seed, accounts
        self._version = self._running = 0

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        """A group of the version that was the newest when it began."""
        version = self._version
        self._run(+1)
        await asyncio.sleep(group_seconds(self._seed, prompt.index // GROUPS)[prompt.index % GROUPS])
        self._run(-1)
        return Group(prompt, version, [0], [Sampled([0], [-0.1], "", "stop") for _ in range(sampling.n)])

    async def load(self, weights: Published | Sent) -> None:
        """Takes the time to load."""
        await asyncio.sleep(UPDATE / 50)
        self._version = weights.version

    def _run(self, change: int) -> None:
        self._running += change
        self._accounts.rollout(busy=float(self._running > 0))


async def simulate(max_staleness: int, seed: int, run: Path) -> dict[str, float]:
    """Completions a second of wall time, and how far each pool's shares are from adding up."""
    config = settings(
        run,
        steps=UPDATES,
        batch_groups=GROUPS,
        max_staleness=max_staleness,
        checkpoint_every=UPDATES,
        rollout={"group_size": GROUP_SIZE, "max_concurrent": (max_staleness + 1) * GROUPS},
    )
    ends: list[float] = []
    reports: list[dict[str, float]] = []

    def report(version: int, metrics: dict[str, float], *more: object) -> None:
        ends.append(time.monotonic())
        reports.append(metrics)

    accounts = RunAccounts()
    with Ledger(run, Opening(resumed_from=0, prompts=1, batch_groups=GROUPS)) as ledger:
        await RunController(
            config,
            PromptOrder(prompts(1), seed),
            SimulatedRollouts(seed, accounts),
            SimulatedRewards(),
            SimulatedLearners(UPDATE),
            ledger,
            Progress(),
            report,
            accounts=accounts,
        ).run()
    measured = reports[FIRST:]
    wall = [end - begin for begin, end in zip(ends[FIRST - 1 :], ends[FIRST:], strict=False)]
    sums = [
        sum(value for name, value in metrics.items() if name.startswith(f"share/{pool}/")) * metrics["seconds/step"]
        for metrics in measured
        for pool in ("rollout", "reward", "learner")
    ]
    walls = [value for value in wall for _ in range(3)]
    return {
        "samples_per_second": len(measured) * GROUPS * GROUP_SIZE / sum(wall),
        "rollout_busy": fmean(m["share/rollout/busy"] for m in measured),
        "learner_busy": fmean(m["share/learner/busy"] for m in measured),
        "staleness_max": max(m["staleness/max"] for m in measured),
        "accounting_error": max(abs(total / value - 1) for total, value in zip(sums, walls, strict=True)),
    }


def main() -> None:
    figures = {}
    for max_staleness in (0, 1, 2):
        runs = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(asyncio.run(simulate(max_staleness, seed, Path(folder))))
        means = {name: fmean(run[name] for run in runs) for name in runs[0]}
        worst = {name: max(run[name] for run in runs) for name in ("staleness_max", "accounting_error")}
        figures[f"max_staleness={max_staleness}"] = {name: round(value, 4) for name, value in (means | worst).items()}
    sync = figures["max_staleness=0"]["samples_per_second"]
    result = {
        "command": "python -m benchmarks.overlap",
        "machine": describe(),
        "simulated": {
            "update_seconds": UPDATE,
            "slowest_completion": f"{SLOWEST} updates",
            "groups": GROUPS,
            "group_size": GROUP_SIZE,
            "updates_measured": UPDATES - FIRST,
            "seeds": list(SEEDS),
        },
        "figures": figures,
        "speedup": {
            name: round(values["samples_per_second"] / sync, 3) for name, values in figures.items() if "=0" not in name
        },
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["figures"], indent=2), json.dumps(result["speedup"]))


if __name__ == "__main__":
    main()
