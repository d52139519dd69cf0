"""What a person can get wrong: exit status 2, one line that helps, and nothing left behind that looks complete."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from ray_nodes import free_port

from dermo_ray import checkpoints
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.run_directory import claimed
from jobs import command, evaluate, mavic, prepare, serve, sft


@pytest.fixture(scope="module")
def data(small_corpus: Path) -> Path:
    """A small prepared folder."""
    return small_corpus


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]):
    """Runs a job that must end with exit status 2; what it says, which must be one line."""

    def run(job: ModuleType, *arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            command.main(job.CONFIG, job.run, job.__doc__, [str(argument) for argument in arguments])
        assert caught.value.code == 2
        return one_line(capfd.readouterr().err)

    return run


def one_line(stderr: str) -> str:
    """The one line on stderr; Ray's processes may write there as well."""
    own = [line for line in stderr.splitlines() if line.strip() and "raylet" not in line]
    assert len(own) == 1, stderr
    assert own[0].startswith("error: ")
    return own[0]


def training(job: ModuleType, run: Path, data: Path, model: Path) -> list[str]:
    """The arguments of a training job that two cores are enough for."""
    pools = {sft: ["pool"], mavic: ["rollout", "rewards", "learner"]}[job]
    fit = [f"{pool}.cpus_per_worker=0.5" for pool in pools]
    return [f"run={run}", f"data={data}", f"model.path={model}", *fit]


def has_no_checkpoint(run: Path) -> bool:
    return checkpoints.latest(run / "checkpoints") is None and not list(run.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("job", "needed", "mistake", "meant"),
    [
        (prepare, ["out"], "soruce=phantoms", "source"),
        (sft, ["run", "data", "model.path"], "optimizer.learning_rat=1", "optimizer.learning_rate"),
        (mavic, ["run", "data", "model.path"], "rollout.engine.max_model_length=9", "rollout.engine.max_model_len"),
        (evaluate, ["run", "data"], "promts=3", "prompts"),
        (serve, ["run"], "prot=80", "port"),
    ],
)
def test_an_unknown_setting_names_the_nearest(
    job: ModuleType, needed: Sequence[str], mistake: str, meant: str, tmp_path: Path, complaint
) -> None:
    message = complaint(job, *(f"{name}={tmp_path / name}" for name in needed), mistake)
    assert f"unknown setting {mistake.partition('=')[0]}: did you mean {meant}?" in message
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_is_called_wrongly_says_so_in_a_process_of_its_own(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "jobs.prepare",
            "source=ham10000",
            f"root={tmp_path / 'none'}",
            f"out={tmp_path / 'out'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert str(tmp_path / "none") in one_line(ended.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
def test_a_data_root_that_is_not_there_or_holds_nothing_is_named(kind: str, tmp_path: Path, complaint) -> None:
    root = tmp_path / "root"
    if kind == "empty":
        root.mkdir()
    elif kind == "a file":
        root.touch()
    assert str(root) in complaint(prepare, "source=ham10000", f"root={root}", f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", [sft, mavic])
def test_a_folder_that_was_not_prepared_is_named(job: ModuleType, tiny_model: Path, tmp_path: Path, complaint) -> None:
    data = tmp_path / "nothing"
    assert str(data) in complaint(job, f"run={tmp_path / 'run'}", f"data={data}", f"model.path={tiny_model}")
    assert has_no_checkpoint(tmp_path / "run")


def test_a_model_folder_without_its_processor_is_named(
    tiny_model: Path, data: Path, trained_run: Path, tmp_path: Path, complaint
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("*processor*"))
    run = tmp_path / "run"
    for job in (sft, mavic):
        assert f"{model} has no processor" in complaint(job, *training(job, run, data, model))
        assert has_no_checkpoint(run)
    shutil.copytree(trained_run, run, symlinks=True, dirs_exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(model)}, "lora": {"rank": 8}}))
    assert f"{model} has no processor" in complaint(serve, f"run={run}", f"port={free_port()}")


@pytest.mark.parametrize("job", [sft, mavic])
def test_a_folder_without_a_model_is_named(job: ModuleType, data: Path, tmp_path: Path, complaint) -> None:
    message = complaint(job, *training(job, tmp_path / "run", data, tmp_path / "absent"))
    assert f"{tmp_path / 'absent'} holds no model" in message


@pytest.mark.parametrize("job", [sft, mavic])
def test_two_runs_do_not_share_a_run_directory(
    job: ModuleType, data: Path, tiny_model: Path, tmp_path: Path, complaint
) -> None:
    arguments = [f"run={tmp_path / 'run'}", f"data={data}", f"model.path={tiny_model}"]
    with claimed(tmp_path / "run", load(job.CONFIG, None, arguments), ()):
        assert "two runs in one run directory: another live run holds" in complaint(job, *arguments)


def test_a_run_directory_of_other_settings_is_not_taken_over(
    data: Path, tiny_model: Path, tmp_path: Path, complaint
) -> None:
    run = tmp_path / "run"
    arguments = [f"run={run}", f"data={data}", f"model.path={tiny_model}"]
    with claimed(run, load(MavicConfig, None, arguments), ()):
        checkpoints.commit(checkpoints.begin(run / "checkpoints", 3), {"step": 3})
    before = (run / "config.yaml").read_text()
    message = complaint(mavic, *arguments, "seed=1")
    assert "two runs in one run directory" in message
    assert "seed=0, not 1" in message
    assert (run / "config.yaml").read_text() == before


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("job", "more", "numbers"),
    [
        (
            mavic,
            ["rollout.workers=3"],
            "2.5 CPUs are asked for (rollout 1.5, rewards 0.5, learner 0.5) and the cluster has 2",
        ),
        (mavic, ["learner.gpus_per_worker=1"], "1 GPUs are asked for (learner 1) and the cluster has 0"),
        (sft, ["pool.workers=6"], "3 CPUs are asked for (pool 3) and the cluster has 2"),
        (evaluate, ["rollout.workers=64"], "64 CPUs are asked for (rollout 64) and the cluster has 2"),
        (serve, ["pool.workers=64"], "64 CPUs are asked for (pool 64) and the cluster has 2"),
    ],
)
def test_more_than_the_machine_has_is_refused_with_both_numbers(
    job: ModuleType,
    more: Sequence[str],
    numbers: str,
    data: Path,
    trained_run: Path,
    tiny_model: Path,
    tmp_path: Path,
    complaint,
) -> None:
    if job in (sft, mavic):
        arguments = training(job, tmp_path / "run", data, tiny_model)
    else:
        arguments = [f"run={trained_run}", f"data={data}" if job is evaluate else f"port={free_port()}"]
    assert numbers in complaint(job, *arguments, *more)
    assert has_no_checkpoint(tmp_path / "run")
    assert not (trained_run / evaluate.RESULT).exists()


def test_a_port_in_use_is_named(trained_run: Path, complaint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = complaint(serve, f"run={trained_run}", f"port={port}")
    assert f"can't listen on 127.0.0.1, port {port}" in message
    assert "port=" in message


@pytest.mark.parametrize("job", [evaluate, serve])
def test_a_run_without_a_checkpoint_is_named(job: ModuleType, data: Path, tmp_path: Path, complaint) -> None:
    arguments = [f"run={tmp_path}", *([f"data={data}"] if job is evaluate else [])]
    assert f"{tmp_path} is no run directory" in complaint(job, *arguments)
    (tmp_path / "config.yaml").write_text("{}")
    assert f"{tmp_path} has no checkpoint 'latest'; it has none yet" in complaint(job, *arguments)


def test_a_damaged_checkpoint_is_named(trained_run: Path, tmp_path: Path, complaint) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    (run / "checkpoints" / "step_000007" / "adapter" / "adapter_model.safetensors").write_bytes(b"half")
    assert "adapter/adapter_model.safetensors is not what was written" in complaint(serve, f"run={run}")
