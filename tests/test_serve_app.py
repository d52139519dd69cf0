from pathlib import Path

import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from dermo_ray.config.base import load
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from serve.app import build


def deployments(run: Path, tmp_path: Path, **settings: object) -> dict:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"run": str(run), "engine": {"max_num_seqs": 8}}))
    application = build({"config": str(file), **settings})
    return {deployment.name: deployment for deployment in build_app(application, name="dermo-ray").deployments}


def test_the_application_is_built_from_a_file_and_overrides(trained_run: Path, tmp_path: Path):
    built = deployments(trained_run, tmp_path, **{"pool.workers": "2", "max_queued": 5})
    assert set(built) == {"ingress", "manager", "policy"}
    policy = built["policy"]
    assert (policy.num_replicas, policy.max_ongoing_requests, policy.max_queued_requests) == (2, 8, 5)
    assert built["ingress"].ray_actor_options["num_cpus"] == 0


def test_what_a_command_line_gives_as_text_is_read_as_any_override(trained_run: Path, tmp_path: Path):
    lists = {"pool.max_workers": "null", "safety.allowed_hosts": "[images.example.org]", "live": "{promote: by_hand}"}
    assert deployments(trained_run, tmp_path, **lists)["policy"].num_replicas == 1


def test_load_decides_how_many_replicas_there_are_where_it_may(trained_run: Path, tmp_path: Path):
    built = deployments(trained_run, tmp_path, pool={"workers": 1, "max_workers": 4, "target_ongoing_requests": 3})
    scaling = built["policy"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 4, 3)


def test_the_file_for_serve_deploy_is_one():
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(Path("deploy/serve.yaml").read_text()))
    (application,) = deployed.applications
    assert application.import_path == "serve.app:build"
    load(ServeConfig, Path(application.args["config"]))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("host=0.0.0.0", "set safety.keys_file"),
        ("live={canary_share: 0.1}", "needs promote=by_hand"),
        ("pool={workers: 3, max_workers: 2}", "max_workers .2. is below workers .3."),
        ("live={promot: by_hand}", "did you mean live.promote"),
    ],
)
def test_settings_that_do_not_go_together_are_named(override: str, reason: str):
    with pytest.raises(UserError, match=reason):
        load(ServeConfig, None, ["run=r", override])


def test_gpus_must_match_how_an_engine_is_cut():
    cut = ["run=r", "engine.tensor_parallel_size=2", "pool.gpus_per_worker=1"]
    with pytest.raises(UserError, match=r"needs pool\.gpus_per_worker=2"):
        load(ServeConfig, None, cut)
    assert load(ServeConfig, None, [*cut, "pool.gpus_per_worker=2"]).pool.on_gpu


def test_missing_keys_show_before_anything_starts(trained_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="there is no key file"):
        deployments(trained_run, tmp_path, **{"safety.keys_file": str(tmp_path / "none.yaml")})
