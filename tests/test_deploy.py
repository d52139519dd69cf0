"""What is shipped for containers and Kubernetes fits the code, the pins and KubeRay's definitions."""

import copy
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray.serve.schema import ServeDeploySchema

from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.serve import ServeConfig
from jobs import command
from jobs.preflight.plan import Plan

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SCHEMAS = yaml.safe_load((ROOT / "tests" / "kuberay_schema.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


def check(resource: dict[str, Any]) -> None:
    schema = SCHEMAS[resource["kind"]] | {"$defs": SCHEMAS["$defs"]}
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(resource)


@pytest.mark.parametrize("name", ["rayjob-mavic.yaml", "rayservice.yaml"])
def test_a_manifest_holds_what_kuberay_knows(name: str) -> None:
    check(manifest(name))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["spec", "entryPoint"], "python", "entryPoint"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"], "4", "not of type 'integer'"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "groupName"], None, "not of type 'string'"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 2, "not of type 'string'"),
        (["metadata", "name"], "Dermo_Ray", "does not match"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(path: list[Any], value: Any, complaint: str) -> None:
    resource = copy.deepcopy(manifest("rayjob-mavic.yaml"))
    owner: Any = resource
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    with pytest.raises(ValidationError, match=complaint):
        check(resource)


def here(path: str) -> Path:
    """The file that the image has at `path`."""
    folder = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    return ROOT / Path(path).relative_to(folder)


def job() -> tuple[dict[str, Any], MavicConfig]:
    """The RayJob, and the settings that its command line gives."""
    resource = manifest("rayjob-mavic.yaml")
    python, flag, module, file, *overrides = shlex.split(resource["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "jobs.mavic")
    return resource, load(MavicConfig, here(file), command.parse(overrides)[1])


def test_every_pool_has_a_worker_group_that_holds_it() -> None:
    resource, config = job()
    groups = {group["groupName"]: group for group in resource["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    for pool in (config.rollout, config.rewards, config.learner):
        group = groups[pool.node_labels["ray.io/node-group"]]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for asked, key in ((pool.gpus_per_worker, "nvidia.com/gpu"), (pool.cpus_per_worker, "cpu")):
            per_pod = float(limits.get(key, 0))
            assert asked <= per_pod
            assert pool.workers * asked <= group["minReplicas"] * per_pod
    rollout, scale = groups["rollout"], config.rollout.autoscale
    assert scale is not None
    assert config.rollout.gpus_per_worker == 1
    assert (scale.min_workers, scale.max_workers) == (rollout["minReplicas"], rollout["maxReplicas"])
    assert scale.max_workers > scale.min_workers


def test_a_run_that_is_stopped_has_the_time_for_its_checkpoint_and_its_driver_stays_on_the_head() -> None:
    resource, config = job()
    wait = int(yaml.safe_load(resource["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    head = resource["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert config.preemption_deadline < wait < head["terminationGracePeriodSeconds"]
    assert "entrypointNumCpus" not in resource["spec"]  # Ray puts a driver that asks for something on any node


def test_a_service_can_write_to_its_store() -> None:
    spec = manifest("rayservice.yaml")["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    (store,) = Plan("serve", load(ServeConfig, here(application["args"]["config"]))).writes
    for group in (spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if store.is_relative_to(m["mountPath"])]
        (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
        assert not mount.get("readOnly")
        assert not volume["persistentVolumeClaim"].get("readOnly")


def test_every_volume_that_is_mounted_is_there() -> None:
    for name in ("rayjob-mavic.yaml", "rayservice.yaml"):
        spec = manifest(name)["spec"]
        cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            there = {volume["name"] for volume in pod["volumes"]}
            assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= there


def test_the_service_is_upgraded_without_a_gap_and_its_application_is_one_that_ray_serve_takes() -> None:
    spec = manifest("rayservice.yaml")["spec"]
    assert spec["upgradeStrategy"]["type"].startswith("NewCluster")
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = deployed.applications
    module, _, attribute = application.import_path.partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert re.search(rf"^(?:async )?def {attribute}\(", source, re.MULTILINE)
    load(ServeConfig, here(application.args["config"]))


def test_the_service_may_write_to_its_store() -> None:
    spec = manifest("rayservice.yaml")["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    config = load(ServeConfig, here(application["args"]["config"]))
    store = config.live.store or config.run / "served"
    cluster = spec["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = pod["containers"][0]["volumeMounts"]
        (mount,) = (mount for mount in mounts if store.is_relative_to(mount["mountPath"]))
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
        assert not mount.get("readOnly")
        assert not volume["persistentVolumeClaim"].get("readOnly")


def test_manifests_and_container_file_name_the_pinned_versions() -> None:
    for name in ("rayjob-mavic.yaml", "rayservice.yaml"):
        spec = manifest(name)["spec"]
        assert (spec.get("rayClusterSpec") or spec["rayClusterConfig"])["rayVersion"] == metadata.version("ray")
    (uv,) = re.findall(r"uv==([\d.]+)", DOCKERFILE)
    assert f"UV_VERSION := {uv}" in (ROOT / "Makefile").read_text()


def test_the_container_file_has_a_target_for_each_variant_and_copies_what_is_there() -> None:
    targets = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert {"cpu", "gpu"} <= set(targets)
    for source in re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).exists()
    for target in ("cpu", "gpu"):
        assert f"requirements/{target}.txt" in DOCKERFILE
    installed = DOCKERFILE[DOCKERFILE.index("--no-install-recommends") :].split("\\")[0].split()[1:]
    packages = (ROOT / ".ci" / "run").read_text()
    assert {package for package in installed if package != "wget"} <= set(re.findall(r"[\w+.-]+", packages))
