"""Rollout workers come and go in a live run: `python -m benchmarks.scaling`.

A run of `benchmarks.simulated_run` begins with one rollout worker, `jobs.scale` makes it four and then two. A
simulated engine takes five groups at once and no CPU to speak of, so that two cores show what more engines would
bring. Reports the groups scored per second in each phase. Writes `benchmarks/results/scaling.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from actors.steering import PoolState
from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.ledger import check
from jobs import scale
from jobs.cluster import ray_session

PHASES = (1, 4, 2)
SECONDS = 30.0
"""How long each phase is watched, once its workers are ready."""


def simulation(run: Path) -> dict[str, Any]:
    return {
        "group_seconds": 1.0,
        "update_seconds": 0.02,
        "mavic": {
            "run": str(run),
            "data": str(run),
            "model": {"path": str(run)},
            "steps": 10_000,
            "batch_groups": 8,
            "max_staleness": 8,
            "checkpoint_every": 50,
            "rollout": {
                "workers": PHASES[0],
                "cpus_per_worker": 0.1,
                "group_size": 2,
                "max_tokens": 32,
                "max_concurrent": 48,
                "engine": {"max_num_seqs": 5, "start_timeout": 120},
            },
            "rewards": {"cpus_per_worker": 0.1},
            "learner": {"cpus_per_worker": 0.1},
        },
    }


def rollout(run: Path, **targets: int) -> PoolState:
    state = scale.scale(ScaleConfig(run=run, **targets))
    return next(pool for pool in state.pools if pool.name == "rollout")


def phase(run: Path, workers: int) -> dict[str, float | int]:
    """Scale to `workers`, wait until they are there, and watch them work."""
    began = time.monotonic()
    pool = rollout(run, rollout=workers)
    while sum(w.state == "ready" for w in pool.workers) != workers or len(pool.workers) != workers:
        time.sleep(0.1)
        pool = rollout(run)
    scaled = time.monotonic()
    time.sleep(3)
    before, watched = updates(run), time.monotonic()
    time.sleep(SECONDS)
    groups = 8 * (updates(run) - before)
    return {
        "workers": workers,
        "seconds_until_scaled": round(scaled - began, 1),
        "groups_per_second": round(groups / (time.monotonic() - watched), 2),
    }


def updates(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=4):
        run, settings = Path(folder) / "run", Path(folder) / "settings.json"
        settings.write_text(json.dumps(simulation(run)))
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "benchmarks.simulated_run", str(settings)]
        driver = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address})
        try:
            while not (run / "metrics.jsonl").exists() or not updates(run):
                time.sleep(0.2)
            phases = [phase(run, workers) for workers in PHASES]
        finally:
            driver.terminate()
            status = driver.wait(120)
        report = check(run)
    result = {
        "command": "python -m benchmarks.scaling",
        "machine": describe(),
        "phases": phases,
        "groups_per_second_per_worker": [round(p["groups_per_second"] / p["workers"], 2) for p in phases],
        "ledger": report.summary,
        "problems": report.problems,
        "exit_status_after_sigterm": status,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))
    sys.exit(bool(report.problems) or status)


if __name__ == "__main__":
    main()
