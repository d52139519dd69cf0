"""Random faults against live runs on a 3-node local cluster: `python -m benchmarks.chaos [--faults 100] [--seed 0]`.

Runs of `benchmarks.simulated_run` (real controller, pools, Ray actors, ledger, checkpoints; simulated engines,
rewards and ranks) are hit by kills and freezes of every kind of actor, node losses, kills of the driver, SIGTERM and
damaged checkpoints; a driver that ended is started again. Every run must end by itself with the right number of
updates, a ledger that shows every prompt used once, and weights that are those of the updates in the ledger. Writes
`benchmarks/results/chaos.json`.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from actors.mavic import EVENTS
from actors.steering import NAMESPACE, RunState, desk_name
from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray import checkpoints
from dermo_ray.ledger import check, read
from dermo_ray.run_directory import CHECKPOINTS

STEPS, BATCH, PROMPTS = 40, 8, 50
FAULTS_PER_RUN = 8
PATIENCE = 150.0
"""Seconds without an update after which a run counts as hung."""

NODE = {"num_cpus": 8, "object_store_memory": 80 * 2**20}
LARGE = 100_000
"""Tokens of a completion in every fourth run, whose groups since the last checkpoint don't fit the object store."""

WEIGHTS = {
    "kill rollout": 25,
    "freeze rollout": 8,
    "kill reward": 12,
    "freeze reward": 4,
    "kill learner": 12,
    "freeze learner": 4,
    "lose node": 10,
    "kill driver": 12,
    "terminate driver": 5,
    "damage checkpoint and kill driver": 5,
    "kill desk": 3,
}


class Chaos:
    """A cluster, a run on it, and what is done to both."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(2)]
        ray.init(address=self.cluster.address, logging_level="ERROR", log_to_driver=False)
        self.done: Counter[str] = Counter()
        self.driver: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.run = folder
        self.pids: set[int] = set()
        self.starts = self.hangs = 0
        self.problems: list[str] = []

    def one_run(self, number: int, faults: int) -> None:
        """A run from its first start to its end, with `faults` faults on the way."""
        self.run = self.folder / f"run{number}"
        settings = self.folder / f"run{number}.json"
        values = simulation(self.run, max_staleness=number % 3)
        if number % 4 == 3:
            values["tokens"] = LARGE
        settings.write_text(json.dumps(values))
        left, progress, since, next_fault = faults, -1, time.monotonic(), time.monotonic() + 3
        self.start(settings)
        while True:
            time.sleep(0.2)
            assert self.driver is not None
            status = self.driver.poll()
            if status is not None:
                if self.updates() >= STEPS and status == 0:
                    break
                if status not in (0, -signal.SIGKILL):
                    self.problems.append(f"run {number}: a driver ended with status {status}: {self.last_output()}")
                    break
                self.start(settings)
                since = time.monotonic()
            if self.updates() != progress:
                progress, since = self.updates(), time.monotonic()
            if time.monotonic() - since > PATIENCE:
                self.hangs += 1
                self.problems.append(
                    f"run {number} made no update for {PATIENCE:g} s after {progress}: {self.last_output()}"
                )
                self.driver.kill()
                break
            if left and time.monotonic() > next_fault and self.fault():
                left -= 1
                next_fault = time.monotonic() + self.random.uniform(0.5, 4)
        self.check(number)
        self.say(f"{self.run.name} ended, {len(self.problems)} problems")
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(**NODE))

    def start(self, settings: Path) -> None:
        self.starts += 1
        self.say(f"{self.run.name} starts")
        with (self.folder / "drivers.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.simulated_run", str(settings)],
                env=os.environ | {"RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=log,
            )

    def fault(self) -> bool:
        """Do something bad; whether there was anything to do it to."""
        name = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        what, _, whom = name.partition(" ")
        done = False
        if name == "lose node":
            done = self.lose_node()
        elif whom == "driver" or name.startswith("damage"):
            done = self.end_driver(name)
        elif whom == "desk":
            desk = self.desk()
            if desk is not None:
                ray.kill(desk)
                done = True
        else:
            done = self.hit(whom, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        self.done[name] += done
        if done:
            self.say(name)
        return done

    def say(self, what: str) -> None:
        """One line about what just happened."""
        print(
            f"{time.monotonic() - self.began:6.1f} s, update {self.updates():3d}: {what}", file=sys.stderr, flush=True
        )

    def hit(self, pool: str, how: signal.Signals) -> bool:
        state = self.look()
        workers = [w for p in state.pools if p.name == pool for w in p.workers if w.pid] if state else []
        if not workers:
            return False
        pid = self.random.choice(workers).pid
        assert pid is not None
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return False
        return True

    def lose_node(self) -> bool:
        if len(self.nodes) < 2:
            self.nodes.append(self.cluster.add_node(**NODE))
            return False
        if self.look() is None:
            return False
        self.cluster.remove_node(self.nodes.pop(self.random.randrange(2)), allow_graceful=False)
        return True

    def end_driver(self, name: str) -> bool:
        if self.look() is None:  # still starting: a driver that never gets anywhere proves nothing
            return False
        whole = sorted((self.run / CHECKPOINTS).glob("step_*"))
        if name.startswith("damage") and len(whole) < 2:  # without another there would be nothing to go on from
            return False
        assert self.driver is not None
        self.driver.send_signal(signal.SIGTERM if name.startswith("terminate") else signal.SIGKILL)
        self.driver.wait(60)
        if name.startswith("damage"):
            whole = sorted((self.run / CHECKPOINTS).glob("step_*"))
            (whole[-1] / checkpoints.STATE).write_text("{")
        return True

    def desk(self) -> Any:
        try:
            return ray.get_actor(desk_name(self.run), namespace=NAMESPACE)
        except ValueError:
            return None

    def look(self) -> RunState | None:
        desk = self.desk()
        try:
            state = ray.get(desk.look.remote(), timeout=5)[0] if desk is not None else None
        except ray.exceptions.RayError:
            return None
        if state is not None:
            self.pids |= {worker.pid for pool in state.pools for worker in pool.workers if worker.pid}
        return state

    def updates(self) -> int:
        """Updates that the metrics tell of."""
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return len(lines)

    def last_output(self) -> str:
        return " | ".join((self.folder / "drivers.log").read_text(errors="replace").splitlines()[-4:])

    def check(self, number: int) -> None:
        """What the run left behind must be right."""
        report = check(self.run)
        self.problems += [f"run {number}: {problem}" for problem in report.problems]
        if report.steps != STEPS:
            self.problems.append(f"run {number} made {report.steps} updates, not {STEPS}")
        trained = [entry for entry in read(self.run) if entry.outcome == "trained"]
        weights: list[str] = []
        for step in range(report.steps):
            indices = [entry.index for entry in trained if entry.step == step]
            weights.append(hashlib.sha256(json.dumps([weights[-1:], indices]).encode()).hexdigest())
        checkpoint = checkpoints.latest(self.run / CHECKPOINTS)
        kept = json.loads((checkpoint / "learner" / "steps.json").read_text()) if checkpoint else []
        if kept != weights:
            self.problems.append(f"run {number}: the weights are not those of the updates in the ledger")

    def close(self) -> int:
        """End everything; how many workers' processes were still there after their runs."""
        time.sleep(10)
        left = [pid for pid in self.pids if alive(pid)]
        ray.shutdown()
        self.cluster.shutdown()
        for pid in left:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def alive(pid: int) -> bool:
    """Whether it is a Ray worker's process that has an actor's name."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "ray::Simulated" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def simulation(run: Path, max_staleness: int) -> dict[str, Any]:
    return {
        "prompts": PROMPTS,
        "mavic": {
            "run": str(run),
            "data": str(run),
            "model": {"path": str(run)},
            "steps": STEPS,
            "batch_groups": BATCH,
            "max_staleness": max_staleness,
            "checkpoint_every": 5,
            "preemption_deadline": 20,
            "rollout": {
                "workers": 3,
                "cpus_per_worker": 1,
                "heartbeat": 6,
                "group_size": 2,
                "max_tokens": 32,
                "max_concurrent": 24,
                "timeout": 60,
                "engine": {"max_num_seqs": 8, "start_timeout": 120},
            },
            "rewards": {"workers": 2, "cpus_per_worker": 1, "heartbeat": 6, "timeout": 60},
            "learner": {"workers": 2, "cpus_per_worker": 1, "heartbeat": 6, "timeout": 60},
        },
    }


def recoveries(folder: Path) -> list[float]:
    """Seconds from the loss of a rollout worker to the first answer of the next one, as the runs' events tell."""
    pattern = re.compile(r"rollout worker .* answers ([\d.]+) s after the loss")
    found = [pattern.findall(path.read_text()) for path in folder.glob(f"run*/{EVENTS}")]
    return [float(seconds) for matches in found for seconds in matches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults: int = arguments.faults
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), arguments.seed)
        runs = 0
        left = -1
        try:
            while (missing := faults - sum(chaos.done.values())) > 0 and not chaos.problems:
                chaos.one_run(runs, min(FAULTS_PER_RUN, missing))
                runs += 1
        finally:
            left = chaos.close()
        seconds = recoveries(Path(folder))
    result = {
        "command": f"python -m benchmarks.chaos --faults {faults} --seed {arguments.seed}",
        "machine": describe(),
        "faults": dict(sorted(chaos.done.items())),
        "total_faults": sum(chaos.done.values()),
        "runs": runs,
        "runs_with_too_small_an_object_store": runs // 4,
        "updates_per_run": STEPS,
        "driver_starts": chaos.starts,
        "hangs": chaos.hangs,
        "problems": chaos.problems,
        "workers_left_behind": left,
        "rollout_recovery_seconds": {
            "count": len(seconds),
            "median": round(median(seconds), 2) if seconds else None,
            "max": round(max(seconds), 2) if seconds else None,
        },
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    if faults >= 100:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "chaos.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))
    sys.exit(bool(chaos.problems or left))


if __name__ == "__main__":
    main()
