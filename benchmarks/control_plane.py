"""How many rollout workers one controller keeps busy: `python -m benchmarks.control_plane`.

Up to 1,024 simulated workers live in a few Ray actors, which sleep as long as completions take and answer with groups
of real size: the controller, its pools and Ray's calls are the real ones. Reports the throughput as a share of
the ideal, in which every worker always has as many groups as it takes, and the controller's CPU time per group. A
second run, in one process and with hardly any sleep, follows its memory over 100,000 groups. Writes
`benchmarks/results/control_plane.json`.
"""

import argparse
import asyncio
import gc
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.controller import RunController
from actors.hosting import Host, Location, WorkerDied
from actors.pool import Pool
from actors.progress import Progress
from actors.reward import Rewards
from actors.rollout import Rollouts
from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from benchmarks.simulated import (
    SimulatedEngine,
    SimulatedLearners,
    SimulatedRewards,
    prompts,
    seconds_of,
    settings,
)
from dermo_ray.config.pools import PoolSettings
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening, check
from jobs.cluster import ray_session

WORKERS, PER_PROCESS, SLOTS = (32, 512, 1024), 128, 4
"""The pools that are measured; workers in a process; groups at once on a worker."""
ROUNDS = 8
"""Groups that each place of a worker takes, the first and the last two not measured."""
STALENESS = 4 * ROUNDS
"""Updates that a completion may be old: so many that no worker ever waits for the slowest group, which a tight bound
would make it do. What is measured is the controller."""
MEDIAN = 20.0
"""Seconds of the median group: 8 completions of some hundred tokens on an 8-billion-parameter policy."""


class Barracks:
    """A Ray actor's class: many simulated workers in one process."""

    def __init__(self, workers: int, median: float, tokens: int) -> None:
        self._engines = [SimulatedEngine(median, tokens) for _ in range(workers)]

    async def ask(self, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
        return await getattr(self._engines[number], method)(*arguments)


class Bunk:
    """The host of one worker among many in a process."""

    def __init__(self, barracks: Any, number: int) -> None:
        self._barracks, self._number = barracks, number

    async def locate(self) -> Location:
        return Location("simulated", self._number)

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return await self._barracks.ask.remote(self._number, method, arguments)

    async def ping(self) -> None:
        """Always there."""

    def kill(self) -> None:
        """Goes with its process."""

    async def last_words(self) -> str:
        return ""


class Local:
    """The host of a worker in the controller's process."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._gone = False

    async def locate(self) -> Location:
        return Location("here", 0)

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if self._gone:
            raise WorkerDied("it was killed")
        return await getattr(self._worker, method)(*arguments)

    async def ping(self) -> None:
        """Always there."""

    def kill(self) -> None:
        self._gone = True

    async def last_words(self) -> str:
        return ""


Observe = Callable[[RunController, SimulatedLearners, Pool], Awaitable[None]]


def conduct(run: Path, hosts: list[Host], groups: int, group_size: int, batch: int, observe: Observe) -> None:
    """Train on `groups` groups over simulated workers on `hosts`, with `observe` beside it."""
    config = settings(
        run,
        steps=groups // batch,
        batch_groups=batch,
        max_staleness=STALENESS,
        checkpoint_every=10**6,
        rollout={"group_size": group_size, "max_concurrent": SLOTS * len(hosts)},
    )
    order = PromptOrder(prompts(4096), seed=0)

    async def main(ledger: Ledger) -> None:
        waiting = iter(hosts)
        rollout = Pool("rollout", PoolSettings(workers=len(hosts)), lambda: next(waiting), 60, SLOTS)
        reward = Pool("reward", PoolSettings(workers=8), lambda: Local(SimulatedRewards()), 60)
        learners = SimulatedLearners(seconds=0.2)
        await asyncio.gather(rollout.open(), reward.open())
        controller = RunController(
            config,
            order,
            Rollouts(rollout, 600),
            Rewards(reward, 60),
            learners,
            ledger,
            Progress(),
            lambda version, metrics, rows: None,
        )
        observer = asyncio.ensure_future(observe(controller, learners, rollout))
        try:
            await controller.run()
        finally:
            observer.cancel()
            await asyncio.gather(rollout.close(), reward.close())

    with Ledger(run, Opening(resumed_from=0, prompts=4096, batch_groups=batch)) as ledger:
        asyncio.run(main(ledger))
    report = check(run)
    assert report.ok, report.problems


def throughput(workers: int, median: float) -> dict[str, float | int]:
    """Steady-state throughput of `workers` workers, against that of workers that are never without work."""
    samples: list[tuple[float, float, int]] = []
    places = workers * SLOTS
    groups = ROUNDS * places

    async def observe(controller: RunController, learners: SimulatedLearners, pool: Pool) -> None:
        while True:
            await asyncio.sleep(1.0)
            samples.append((time.monotonic(), time.process_time(), sum(worker.done for worker in pool.workers)))

    with ray_session(num_cpus=2), tempfile.TemporaryDirectory() as folder:
        remote: Any = ray.remote(Barracks).options(num_cpus=0.1, max_concurrency=10_000)
        processes = [remote.remote(PER_PROCESS, median, 256) for _ in range(0, workers, PER_PROCESS)]
        hosts: list[Host] = [Bunk(processes[number // PER_PROCESS], number % PER_PROCESS) for number in range(workers)]
        conduct(Path(folder), hosts, groups, group_size=8, batch=max(1, places // 4), observe=observe)
    # the first groups all begin at once and the last leave workers idle: neither is the steady state
    warm = next(n for n, sample in enumerate(samples) if sample[2] > 2 * places)
    last = next(n for n, sample in enumerate(samples) if sample[2] > groups - 2 * places)
    (began, cpu_began, done_began), (ended, cpu_ended, done_ended) = samples[warm], samples[last]
    done = done_ended - done_began
    mean = sum(seconds_of(index, median) for index in range(groups)) / groups
    measured, ideal = done / (ended - began), places / mean
    return {
        "workers": workers,
        "groups_at_once_per_worker": SLOTS,
        "max_staleness": STALENESS,
        "median_seconds_of_a_group": median,
        "groups_measured": done,
        "seconds_measured": round(ended - began, 1),
        "groups_per_second": round(measured, 2),
        "ideal_groups_per_second": round(ideal, 2),
        "share_of_ideal": round(measured / ideal, 4),
        "controller_cpu_ms_per_group": round(1000 * (cpu_ended - cpu_began) / done, 3),
        "controller_cpu_share_of_a_core": round((cpu_ended - cpu_began) / (ended - began), 3),
    }


def memory(groups: int) -> dict[str, Any]:
    """Resident memory of a controller while it works through `groups` groups."""
    process = psutil.Process()
    curve: list[dict[str, float | int]] = []

    async def observe(controller: RunController, learners: SimulatedLearners, pool: Pool) -> None:
        while True:
            if learners.groups >= len(curve) * groups // 10:
                gc.collect()
                curve.append({"groups": learners.groups, "mib": round(process.memory_info().rss / 2**20, 1)})
            await asyncio.sleep(0.05)

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        hosts: list[Host] = [Local(SimulatedEngine(0.05, 16)) for _ in range(32)]
        conduct(Path(folder), hosts, groups, group_size=2, batch=100, observe=observe)
        shutil.rmtree(Path(folder) / "rollouts")
    second, last = curve[1], curve[-1]
    return {
        "groups": groups,
        "curve": curve,
        "growth_mib_from_a_tenth_to_the_end": round(last["mib"] - second["mib"], 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "cpu_ms_per_group": round(1000 * (time.process_time() - began) / groups, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=100_000, help="over which memory is followed")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="the pools that are measured")
    parser.add_argument("--memory-only", action="store_true", help="without Ray, and without writing a result")
    arguments = parser.parse_args()
    if arguments.memory_only:
        print(json.dumps(memory(arguments.groups), indent=2))
        return
    result = {
        "command": f"python -m benchmarks.control_plane --workers {' '.join(map(str, arguments.workers))}",
        "machine": describe(),
        "throughput": [throughput(workers, MEDIAN) for workers in arguments.workers],
        "memory": memory(arguments.groups),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "control_plane.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("memory", "throughput")}, indent=2))


if __name__ == "__main__":
    main()
