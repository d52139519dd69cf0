"""A run over simulated workers as a process of its own: scaled from outside, stopped, killed, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.steering import RunState
from benchmarks.chaos import simulation
from dermo_ray import checkpoints
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.errors import UserError
from dermo_ray.ledger import check
from jobs.scale import scale

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROOT = Path(__file__).parent.parent


def start(run: Path, steps: int) -> "subprocess.Popen[str]":
    """A driver on the tests' cluster."""
    values: dict[str, Any] = simulation(run, max_staleness=1)
    values["mavic"] |= {"steps": steps}
    for pool in ("rollout", "rewards", "learner"):
        values["mavic"][pool] |= {"cpus_per_worker": 0.1, "workers": 1}
    settings = run.parent / "settings.json"
    settings.write_text(json.dumps(values))
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.simulated_run", str(settings)],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
    return found


def looked_at(run: Path, **targets: Any) -> RunState | None:
    try:
        return scale(ScaleConfig(run=run, **targets))
    except UserError:  # not yet live
        return None


def ready(run: Path, workers: int) -> RunState | None:
    state = looked_at(run)
    pool = state.pools[0].workers if state else ()
    return state if len(pool) == workers and all(worker.state == "ready" for worker in pool) else None


@pytest.mark.slow
def test_a_live_run_is_scaled_stopped_killed_and_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = start(run, steps=400)
    until(lambda: looked_at(run))
    looked_at(run, rollout=3)
    state = until(lambda: ready(run, 3))
    assert [(pool.name, pool.target) for pool in state.pools] == [("rollout", 3), ("reward", 1), ("learner", 1)]
    assert state.steps == 400
    looked_at(run, rollout=1, now=True)
    state = until(lambda: ready(run, 1))
    until(lambda: (seen := looked_at(run)) and seen.version > state.version)

    driver.send_signal(signal.SIGTERM)
    _, output = driver.communicate(timeout=60)
    assert driver.returncode == 0, output
    assert "the same command goes on from update" in output
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    stopped = checkpoints.read_state(checkpoint)["version"]
    assert f"stopped after update {stopped}; the same command goes on from update {stopped}" in output
    with pytest.raises(UserError, match="has no live run"):
        scale(ScaleConfig(run=run))

    driver = start(run, steps=400)
    state = until(lambda: ready(run, 1))
    workers = [worker.pid for pool in state.pools for worker in pool.workers]
    until(lambda: (seen := looked_at(run)) and seen.version > stopped)
    driver.kill()
    driver.communicate()
    until(lambda: not any(pid is not None and psutil.pid_exists(pid) for pid in workers))

    driver = start(run, steps=stopped + 10)
    _, output = driver.communicate(timeout=90)
    assert driver.returncode == 0, output
    report = check(run)
    assert report.ok, report.problems
    assert report.steps >= stopped + 10
    assert report.resumes == 2


def test_scaling_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        scale(ScaleConfig(run=tmp_path / "absent"))
    with pytest.raises(UserError, match="has no live run: only runs whose pools are open can be scaled"):
        scale(ScaleConfig(run=tmp_path))
    (tmp_path / "ray_address").write_text(f"{ray.get_runtime_context().gcs_address}\ndesk of nobody\n")
    with pytest.raises(UserError, match="has no live run on this cluster"):
        scale(ScaleConfig(run=tmp_path))
