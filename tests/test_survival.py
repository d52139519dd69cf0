"""Runs with real engines and real learner ranks that are stopped, killed and gone on with."""

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
import yaml
from safetensors.torch import load_file

from actors.steering import PoolState
from dermo_ray import checkpoints
from dermo_ray.config.scale import ScaleConfig
from dermo_ray.errors import UserError
from dermo_ray.ledger import check
from dermo_ray.metrics import METRICS
from jobs.scale import scale

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parent.parent
UPDATES = 4
SAME = ("loss", "reward/total", "grad_norm", "tokens", "entropy", "rollout_logprob_diff")


@pytest.fixture(scope="module")
def data(corpus: Path) -> Path:
    return corpus


def start(run: Path, data: Path, model: Path, **values: Any) -> "subprocess.Popen[str]":
    """`python -m jobs.mavic` on the tests' cluster."""
    engine = {"max_model_len": 256, "max_num_seqs": 32, "cpu_kv_cache_gib": 0.1}
    settings = {
        "run": str(run),
        "data": str(data),
        "model": {"path": str(model)},
        "lora": {"rank": 8, "alpha": 16},
        "steps": UPDATES,
        "batch_groups": 4,
        "checkpoint_every": 1,
        "rollout": {"cpus_per_worker": 0.4, "group_size": 4, "max_tokens": 40, "max_concurrent": 8, "engine": engine},
        "rewards": {"cpus_per_worker": 0.1},
        "learner": {"workers": 1, "cpus_per_worker": 0.4, "optimizer": {"learning_rate": 2e-3}},
    }
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings | values))
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.mavic", str(file)],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(driver: "subprocess.Popen[str]") -> str:
    _, output = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    return output


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def updates(run: Path) -> int:
    return len(metrics(run)) if (run / METRICS).exists() else 0


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
    return found


def pools(run: Path) -> dict[str, PoolState]:
    try:
        return {pool.name: pool for pool in scale(ScaleConfig(run=run)).pools}
    except UserError:  # not yet live
        return {}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("undisturbed") / "run"
    ended(start(run, data, tiny_model))
    return run


def test_a_synchronous_run_that_sigterm_stopped_goes_on_with_the_same_numbers(
    undisturbed: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = start(run, data, tiny_model)
    until(lambda: updates(run) >= 2)
    driver.send_signal(signal.SIGTERM)
    assert "the same command goes on from update" in ended(driver)
    assert updates(run) < UPDATES
    ended(start(run, data, tiny_model))
    assert check(run).ok
    for mine, theirs in zip(metrics(run), metrics(undisturbed), strict=True):
        assert {name: mine[name] for name in SAME} == pytest.approx({name: theirs[name] for name in SAME}, abs=1e-6)
    last = Path("checkpoints") / checkpoints.step_name(UPDATES) / "adapter" / "adapter_model.safetensors"
    mine, theirs = load_file(run / last), load_file(undisturbed / last)
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) <= 1e-6


def test_engines_ranks_and_drivers_are_killed_and_every_prompt_is_trained_on_once(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    values = {"steps": 12, "max_staleness": 1, "checkpoint_every": 3}
    driver = start(run, data, tiny_model, **values)

    until(lambda: updates(run) >= 2)
    engine = psutil.Process(pools(run)["rollout"].workers[0].pid)
    own = engine.children(recursive=True)
    cores = [
        process for process in own if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline())
    ]
    assert cores
    cores[0].kill()  # the actor lives on, and finds its engine dead
    seen = updates(run)
    until(lambda: updates(run) >= seen + 2)

    rank = pools(run)["learner"].workers[0].pid
    engines = [worker.pid for worker in pools(run)["rollout"].workers]
    os.kill(rank, signal.SIGKILL)
    seen = updates(run)
    until(lambda: updates(run) >= seen + 2)
    assert [worker.pid for worker in pools(run)["rollout"].workers] == engines

    engine = psutil.Process(engines[0])
    own = engine.children(recursive=True)
    driver.kill()
    driver.communicate()
    until(
        lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in [engine, *own])
    )

    ended(start(run, data, tiny_model, **values))
    report = check(run)
    assert report.ok, report.problems
    assert (report.steps, report.resumes) == (12, 1)
    events = (run / "logs" / "events.log").read_text()
    assert "rollout worker 1 (pid" in events
    assert "learner rank 0 (pid" in events
    assert "was lost" in events
