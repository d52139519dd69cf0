import shutil
import socket
from pathlib import Path

import pytest
import yaml
from ray_nodes import free_port

from dermo_ray import checkpoints
from dermo_ray.config.base import load
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from jobs.serve import check_port, serving
from serve.checkpoints import resolve


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with the checkpoints of steps 20 and 40, one file for an adapter."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(base)}, "lora": {"rank": 8}}))
    for step in (20, 40):
        partial = checkpoints.begin(run / "checkpoints", step)
        (partial / "adapter").mkdir()
        (partial / "adapter" / "adapter_model.safetensors").write_text(f"weights {step}")
        checkpoints.commit(partial, {"step": step, "version": step + 1})
    return run


def test_latest_is_the_newest_checkpoint_under_its_own_name(run: Path):
    checkpoint = resolve(run)
    assert (checkpoint.label, checkpoint.version, checkpoint.lora_rank) == ("step_000040", 41, 8)
    assert checkpoint.adapter == run / "checkpoints" / "step_000040" / "adapter"


def test_an_older_checkpoint_is_found_by_name(run: Path):
    assert resolve(run, "step_000020").version == 21


def test_a_missing_checkpoint_is_answered_with_those_that_are_there(run: Path):
    with pytest.raises(UserError, match="no checkpoint 'step_000030'; it has step_000020, step_000040"):
        resolve(run, "step_000030")


def test_full_weights_are_the_base_model_themselves(run: Path):
    partial = checkpoints.begin(run / "checkpoints", 60)
    (partial / "model").mkdir()
    (partial / "model" / "config.json").write_text("{}")
    checkpoints.commit(partial, {"step": 60, "version": 60})
    checkpoint = resolve(run)
    assert checkpoint.model.path == run / "checkpoints" / "step_000060" / "model"
    assert (checkpoint.adapter, checkpoint.lora_rank) == (None, None)


def test_a_checkpoint_without_weights_is_refused(run: Path):
    checkpoints.commit(checkpoints.begin(run / "checkpoints", 60), {"step": 60, "version": 60})
    with pytest.raises(UserError, match="nothing to serve"):
        resolve(run)


def test_a_changed_checkpoint_is_refused(run: Path):
    (run / "checkpoints" / "step_000040" / "adapter" / "adapter_model.safetensors").write_text("other weights")
    with pytest.raises(UserError, match="damaged"):
        resolve(run)


def test_a_lost_base_model_is_named(run: Path):
    shutil.rmtree(run.parent / "base")
    with pytest.raises(UserError, match=r"the base model of .* is not at"):
        resolve(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no run directory: config\.yaml is missing"):
        resolve(tmp_path)


def test_a_port_in_use_is_named_before_anything_starts(run: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"can't listen on 127.0.0.1, port {port} .* choose another with port="),
            serving(ServeConfig(run=run, port=port)),
        ):
            pass
    check_port("127.0.0.1", port)  # free again


def test_a_model_name_must_leave_the_version_sign_alone():
    with pytest.raises(UserError, match="name: String should match pattern"):
        load(ServeConfig, None, ["run=runs/x", "name=a@b"])


def test_the_demo_settings_are_valid():
    assert load(ServeConfig, Path("configs/demo/serve.yaml")).name == "dermo"


def test_a_model_folder_without_a_processor_is_named_before_anything_starts(run: Path):
    with pytest.raises(UserError, match="has no processor"), serving(ServeConfig(run=run, port=free_port())):
        pass
