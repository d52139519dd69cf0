"""Jobs on a real cluster of several nodes, submitted through its job server."""

import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package
from ray_nodes import RayNodes

from dermo_ray import checkpoints
from dermo_ray.data.manifest import read_manifest
from dermo_ray.errors import UserError
from jobs.cluster import ray_session

ROOT = Path(__file__).parent.parent


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
    deadline = time.monotonic() + 180
    while checkpoints.latest(run / "checkpoints") is None:
        assert cluster.status("first") in ("PENDING", "RUNNING"), cluster.logs("first")
        assert time.monotonic() < deadline, cluster.logs("first")
        time.sleep(1)
    assert cluster.ray("job", "stop", "first").returncode == 0
    assert cluster.wait("first") == "STOPPED"
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None
    done = checkpoints.read_state(latest)["step"]
    cluster.submit(*settings, f"steps={done + 5}", folder=folder, name="second")
    assert cluster.wait("second", timeout=180) == "SUCCEEDED", cluster.logs("second")
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
            timeout=90,
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
