"""Jobs on a real cluster of several nodes, submitted through its job server."""

import base64
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from PIL import Image
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package
from ray_nodes import RayNodes, free_port

from dermo_ray import checkpoints
from dermo_ray.data.manifest import read_manifest
from dermo_ray.errors import UserError
from dermo_ray.metrics import METRICS
from jobs.cluster import ray_session
from jobs.ports import check_port

ROOT = Path(__file__).parent.parent
ENGINE = {"max_model_len": 256, "max_num_seqs": 32, "cpu_kv_cache_gib": 0.1}
PATIENT = {"RAY_JOB_STOP_WAIT_TIME_S": "240"}
"""Ray waits so long for a job that is stopped: until it has written its checkpoint, or answered its last request."""
STARTING, STOPPING = 400.0, 300.0
"""Seconds that a slow machine may take for it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as somebody has it who works in it: with runs and data that must not travel."""
    copy = tmp_path_factory.mktemp("folder") / "dermo-ray"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in files.stdout.decode().splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name in ("runs/demo/rollouts", "data/images", ".git/objects", ".venv/lib"):
        (copy / name).mkdir(parents=True)
        (copy / name / "large.bin").write_bytes(bytes(2**20))
    return copy


def test_what_travels_with_a_job_is_the_code_and_far_below_the_limit(folder: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True, include_parent_dir=False)
    names = zipfile.ZipFile(package).namelist()
    assert not [name for name in names if name.endswith("large.bin")]
    needed = {"jobs/mavic.py", "dermo_ray/data/prompts.py", "dermo_ray/taxonomy.yaml", "configs/demo/sft.yaml"}
    assert needed <= set(names)
    assert {name.partition("/")[0] for name in names} >= {"actors", "dermo_ray", "jobs", "rewards", "serve", "configs"}
    assert package.stat().st_size < GCS_STORAGE_MAX_SIZE / 100


def test_the_address_that_jobs_are_submitted_to_is_told_from_a_clusters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="is a job server: submit the job with `ray job submit`"), ray_session():
        pass
    asked = []
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session(address="10.0.0.1:6379"):  # as the run directory of a live run knows it
        assert asked == ["10.0.0.1:6379"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A head and two workers."""
    nodes = RayNodes(tmp_path_factory.mktemp("home"))
    try:
        nodes.start_head(cpus=1)
        nodes.start_worker(cpus=1, labels={"ray.io/node-group": "rollout"})
        nodes.start_worker(cpus=1, labels={"ray.io/node-group": "learner"})
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def data(cluster: RayNodes, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that a submitted job prepared."""
    out = tmp_path_factory.mktemp("shared") / "data"
    settings = ("source=phantoms", "count=130", "phantom.size=64", "prompts=brief", "formats=[morph_reasoning]")
    cluster.submit("python", "-m", "jobs.prepare", *settings, f"out={out}", folder=folder, name="prepare")
    assert cluster.wait("prepare") == "SUCCEEDED", cluster.logs("prepare")
    return out


@pytest.mark.slow
def test_a_submitted_job_does_its_work_and_its_log_reads_well(cluster: RayNodes, data: Path) -> None:
    manifest = read_manifest(data)
    assert manifest is not None
    assert manifest["counts"]["images"]["total"] > 100
    log = cluster.logs("prepare")
    assert "\r" not in log
    progress = [line for line in log.splitlines() if line.startswith("prepare: ")]
    assert progress[-1].startswith("prepare: 130 of 130 images")


def preflight(cluster: RayNodes, folder: Path, name: str, *settings: object) -> tuple[str, str]:
    cluster.submit("python", "-m", "jobs.preflight", *settings, folder=folder, name=name)
    return cluster.wait(name), cluster.logs(name)


@pytest.mark.slow
def test_preflight_asks_every_node_and_refuses_what_ray_would_remove(
    cluster: RayNodes, folder: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = [f"data={data}", f"model.path={tiny_model}", "job=sft"]
    status, log = preflight(cluster, folder, "passes", f"run={tmp_path / 'run'}", *settings)
    assert status == "SUCCEEDED", log
    assert "on 3 nodes" in log
    status, log = preflight(cluster, folder, "relative", "run=runs/mine", *settings)
    assert status == "FAILED"
    assert "which Ray removes with the job" in log


def until(condition: Callable[[], object], cluster: RayNodes, job: str) -> None:
    """Wait for `condition` while the job goes on."""
    deadline = time.monotonic() + STARTING
    while not condition():
        assert cluster.status(job) in ("PENDING", "RUNNING"), cluster.logs(job)
        assert time.monotonic() < deadline, cluster.logs(job)
        time.sleep(3)


def stop(cluster: RayNodes, job: str) -> str:
    """Stop the job as a person would; its log."""
    stopped = cluster.ray("job", "stop", job, timeout=STOPPING)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert cluster.wait(job) == "STOPPED"
    return cluster.logs(job)


def by_hand(cluster: RayNodes, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Call a job in a terminal on a machine of the cluster."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=STARTING,
    )


def updates(run: Path) -> list[int]:
    """The updates that have metrics."""
    if not (run / METRICS).exists():
        return []
    *lines, _ = (run / METRICS).read_text().split("\n")  # the last one may be under way
    return [json.loads(line)["step"] for line in lines]


def workers(shown: str, pool: str) -> list[tuple[str, int]]:
    """State and calls answered of each worker of a pool, from what jobs.scale shows."""
    rows = [[cell.strip() for cell in line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")] for line in shown.splitlines()]
    return [(row[3], int(row[7])) for row in rows if len(row) > 7 and row[2].startswith(f"{pool} worker ")]


@pytest.mark.slow
def test_a_submitted_run_is_scaled_while_it_goes_on_and_stops_with_a_checkpoint_and_goes_on_to_its_end(
    cluster: RayNodes, folder: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    label = "ray.io/node-group"
    settings = {
        "run": str(run),
        "data": str(data),
        "model": {"path": str(tiny_model)},
        "lora": {"rank": 8, "alpha": 16},
        "batch_groups": 4,
        "max_staleness": 1,
        "preemption_deadline": 120,
        "checkpoint_every": 1_000_000,  # the last update's alone, and that of SIGTERM
        "rollout": {
            "cpus_per_worker": 0.4, "node_labels": {label: "rollout"}, "group_size": 4, "max_tokens": 40,
            "max_concurrent": 8, "engine": ENGINE,
        },
        "rewards": {"cpus_per_worker": 0.1},
        "learner": {"cpus_per_worker": 0.4, "node_labels": {label: "learner"}},
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))  # it travels with the job
    job = ("python", "-m", "jobs.mavic", "mine.yaml")
    cluster.submit(*job, "steps=100000", folder=folder, name="mavic", environment=PATIENT)
    until(lambda: len(updates(run)) >= 2, cluster, "mavic")

    scaled = by_hand(cluster, "jobs.scale", run, "rollout=2", "timeout=90")
    assert scaled.returncode == 0, scaled.stderr
    assert "rollout (2" in scaled.stdout

    def both_sample() -> bool:
        states = workers(by_hand(cluster, "jobs.scale", run).stdout, "rollout")
        return len(states) == 2 and all(state == "ready" and answered > 0 for state, answered in states)

    until(both_sample, cluster, "mavic")
    cluster.submit("python", "-m", "jobs.scale", run, "rollout=1", "--drain", "timeout=90", folder=folder, name="scale")
    assert cluster.wait("scale") == "SUCCEEDED", cluster.logs("scale")
    assert "rollout (1" in cluster.logs("scale")

    assert checkpoints.latest(run / "checkpoints") is None
    log = stop(cluster, "mavic")
    assert "SIGTERM: a last checkpoint is written, within 120 s" in log
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None, log
    done = checkpoints.read_state(latest)["step"]
    assert done >= 2
    assert f"stopped after update {done}; the same command goes on from update {done}" in log
    gone = by_hand(cluster, "jobs.scale", run)
    assert (gone.returncode, "has no live run" in gone.stderr) == (2, True)

    cluster.submit(*job, f"steps={done + 3}", folder=folder, name="mavic-again", environment=PATIENT)
    assert cluster.wait("mavic-again", timeout=STARTING) == "SUCCEEDED", cluster.logs("mavic-again")
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None
    assert checkpoints.read_state(latest)["step"] == done + 3
    assert updates(run) == list(range(1, done + 4))
    ledger = by_hand(cluster, "jobs.view", "ledger", run)
    assert (ledger.returncode, ledger.stderr) == (0, "")
    assert ledger.stdout.startswith(f"{done + 3} updates, ")
    assert ledger.stdout.rstrip().endswith("1 resumes, 0 groups undone: every prompt once")


@pytest.mark.slow
def test_a_concept_model_that_was_stopped_is_trained_to_its_end(
    cluster: RayNodes, folder: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = [
        "python", "-m", "jobs.concepts", f"run={run}", f"data={data}", "pool.workers=2", "batch_size=8",
        "encoder.size=48", "encoder.widths=[8,16]", "encoder.depths=[1,1]", "validation.every=1000000",
    ]  # fmt: skip
    cluster.submit(*job, "steps=1000000", folder=folder, name="concepts", environment=PATIENT)
    until(lambda: len(updates(run)) >= 2, cluster, "concepts")
    log = stop(cluster, "concepts")
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None, log
    done = checkpoints.read_state(latest)["step"]
    cluster.submit(*job, f"steps={done + 3}", folder=folder, name="concepts-again")
    assert cluster.wait("concepts-again", timeout=STARTING) == "SUCCEEDED", cluster.logs("concepts-again")
    assert updates(run) == list(range(1, done + 4))
    assert "images of the test split" in cluster.logs("concepts-again")


@pytest.mark.slow
def test_a_submitted_evaluation_measures_reward_and_benchmark(
    cluster: RayNodes, folder: Path, data: Path, trained_run: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "bench"
    shutil.copytree(trained_run, run, symlinks=True)
    engine = ENGINE | {"max_model_len": 4096, "cpu_kv_cache_gib": 0.2}
    settings = {
        "run": str(run),
        "data": str(data),
        "prompts": 2,
        "rollout": {"group_size": 2, "max_tokens": 16, "engine": engine},
        "bench": {
            "out": str(out), "cache": str(tmp_path / "cache.sqlite"), "items": {"prepared": str(data), "limit": 1},
            "tasks": ["t2.1"], "methods": ["greedy"], "policies": [{"name": "mavic", "run": str(run)}],
            "max_tokens": {"choice": 4, "open": 4}, "engine": engine, "resamples": 100,
        },
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    cluster.submit("python", "-m", "jobs.evaluate", "mine.yaml", folder=folder, name="evaluate")
    assert cluster.wait("evaluate", timeout=STARTING) == "SUCCEEDED", cluster.logs("evaluate")
    assert json.loads((run / "evaluation.json").read_text())
    (policy,) = json.loads((out / "bench.json").read_text())["policies"]
    assert policy["tasks"]["t2.1"]["methods"]["greedy"]["items"] == 1


@pytest.mark.slow
def test_a_submitted_service_answers_until_it_is_stopped_and_then_its_port_is_free(
    cluster: RayNodes, folder: Path, trained_run: Path, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = [
        f"run={trained_run}", f"port={port}", f"live.store={tmp_path / 'served'}", "name=tiny",
        *(f"engine.{name}={value}" for name, value in (ENGINE | {"max_num_seqs": 2}).items()),
    ]  # fmt: skip
    cluster.submit("python", "-m", "jobs.serve", *settings, folder=folder, name="serve", environment=PATIENT)

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    until(ready, cluster, "serve")
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(file, "PNG")
    picture = {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    content = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": "clinical: diagnose"}]
    body = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.is_success, answer.text
    assert answer.json()["system_fingerprint"] == "tiny@step_000007/v7"
    log = stop(cluster, "serve")
    assert f"serving tiny at {url}/v1" in log
    assert "finishing the requests under way" in log
    check_port("127.0.0.1", port)
    actors = cluster.ray("list", "actors", "--filter", "state=ALIVE", "--format", "json").stdout
    assert "ServeController" not in actors
    assert "ServeReplica" not in actors


@pytest.mark.slow
def test_a_stopped_job_goes_on_when_it_is_submitted_again(
    cluster: RayNodes, folder: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [
        "python", "-m", "jobs.sft", f"run={run}", f"data={data}", f"model.path={tiny_model}", "pool.workers=2",
        "batch_size=4", "max_length=1024", "validation.every=0", "checkpoint_every=5",
    ]  # fmt: skip
    cluster.submit(*settings, "steps=100000", folder=folder, name="first")
    until(lambda: checkpoints.latest(run / "checkpoints") is not None, cluster, "first")
    stop(cluster, "first")
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None
    done = checkpoints.read_state(latest)["step"]
    cluster.submit(*settings, f"steps={done + 5}", folder=folder, name="second")
    assert cluster.wait("second", timeout=STARTING) == "SUCCEEDED", cluster.logs("second")
    assert f"sft: {done:,} of {done + 5:,} steps" in cluster.logs("second")
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None
    assert checkpoints.read_state(latest)["step"] == done + 5


@pytest.mark.slow
def test_preflight_called_by_hand_on_a_node_looks_at_the_cluster_and_says_where_it_cannot(
    cluster: RayNodes, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = [f"data={data}", f"model.path={tiny_model}", "job=sft", f"run={tmp_path / 'run'}"]

    def call(address: str, **environment: str) -> tuple[int, str, list[str]]:
        called = subprocess.run(
            [sys.executable, "-m", "jobs.preflight", *settings],
            cwd=ROOT,
            env=cluster.environment | {"RAY_ADDRESS": address} | environment,
            capture_output=True,
            text=True,
            timeout=STARTING,
        )
        return called.returncode, called.stdout, [li for li in called.stderr.splitlines() if li.startswith("error: ")]

    status, table, _ = call(f"127.0.0.1:{cluster.port}")
    assert status == 0, table
    assert "on 3 nodes" in table
    status, _, (line,) = call(f"http://127.0.0.1:{cluster.dashboard}")
    assert (status, "is a job server" in line) == (2, True)
    status, _, (line,) = call(f"127.0.0.1:{cluster.port}", RAY_AUTH_MODE="disabled")
    assert (status, "set RAY_AUTH_MODE=token" in line) == (2, True)
    status, _, (line,) = call(f"127.0.0.1:{cluster.port}", HOME=str(tmp_path))
    assert (status, "no token is here" in line) == (2, True)


@pytest.mark.slow
def test_a_node_with_another_version_is_named_before_anything_starts(
    cluster: RayNodes, folder: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "peft-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    cluster.start_worker(cpus=1, environment={"PYTHONPATH": str(other.parent)})
    settings = [f"data={data}", f"model.path={tiny_model}", "job=sft", f"run={tmp_path / 'run'}"]
    status, log = preflight(cluster, folder, "versions", *settings)
    assert status == "FAILED"
    assert "has peft 0.0.1, not" in log
