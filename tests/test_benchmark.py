"""DermoBench from end to end on a real engine: an adapter and the model below it, over every kind of question."""

import json
from pathlib import Path

import pytest

from dermo_ray.bench.results import BenchReport
from dermo_ray.config.bench import BenchSettings
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.prepare import PrepareConfig
from jobs import benchmark, evaluate, prepare

ENGINE = {"max_model_len": 4096, "max_num_seqs": 64, "cpu_kv_cache_gib": 0.2, "enforce_eager": True}


@pytest.fixture(scope="module")
def data(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of either modality."""
    out = tmp_path_factory.mktemp("bench") / "data"
    split = {"val": 0.0, "test": 0.5}
    prepare.run(PrepareConfig(source="phantoms", count=24, out=out, prompts="brief", phantom={"size": 48}, split=split))
    return out


@pytest.fixture(scope="module")
def settings(data: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchSettings:
    folder = tmp_path_factory.mktemp("bench-out")
    return BenchSettings.model_validate(
        {
            "out": folder / "out",
            "cache": folder / "cache.sqlite",
            "items": {"prepared": data, "limit": 2},
            "tasks": ["t1.1", "t1.4", "t2.1", "t2.3", "t3.2", "t4"],
            "policies": [{"name": "mavic", "run": trained_run}],
            "max_tokens": {"choice": 4, "open": 6},
            "pool": {"cpus_per_worker": 0.5},
            "engine": ENGINE,
            "resamples": 100,
        }
    )


@pytest.fixture(scope="module")
def report(settings: BenchSettings) -> BenchReport:
    result = evaluate.run(EvaluateConfig(bench=settings.model_dump(), compat=True))
    assert result is None  # no held-out reward was asked for
    return BenchReport.model_validate_json((settings.out / benchmark.RESULT).read_text())


def test_every_task_is_answered_by_every_method_that_applies(report: BenchReport) -> None:
    (policy,) = report.policies
    assert list(policy.tasks) == ["t1.1", "t1.4", "t2.1", "t2.3", "t3.2", "t4"]
    for name, task in policy.tasks.items():
        methods = ["greedy"] if name == "t1.1" else ["greedy", "majority", "cct", "cct_early"]
        assert list(task.methods) == methods
        assert all(measured.items == 2 for measured in task.methods.values())
        assert (task.compat is not None) == (name not in ("t1.1", "t3.2"))
    costs = {name: measured.cost for name, measured in policy.tasks["t2.1"].methods.items()}
    assert costs["majority"].rollouts == costs["cct"].rollouts == 8 * costs["greedy"].rollouts
    assert 4 <= costs["cct_early"].rollouts <= 8
    assert costs["cct"].prompt_tokens == 8 * costs["greedy"].prompt_tokens
    assert policy.counts["failed"] == {}


def test_results_lie_in_three_files(report: BenchReport, settings: BenchSettings) -> None:
    assert {path.name for path in settings.out.iterdir()} == {"bench.json", "bench.html", "model_card.md"}
    assert "data:image/png;base64," in (settings.out / "bench.html").read_text()
    assert json.loads((settings.out / "bench.json").read_text())["source"] == "prepared"


def test_a_second_run_asks_nothing_and_finds_the_same(report: BenchReport, settings: BenchSettings) -> None:
    again = benchmark.run(settings, compat=True)
    (before,), (after,) = report.policies, again.policies
    assert (after.counts["asked"], after.counts["cached"]) == (0, before.counts["asked"])
    assert after.tasks == before.tasks


@pytest.mark.slow
def test_the_model_below_the_adapter_is_compared_with_it(
    report: BenchReport, settings: BenchSettings, tiny_model: Path, tiny_adapter: Path
) -> None:
    policies = [
        settings.policies[0].model_dump(),
        {"name": "base", "model": {"path": tiny_model}},
        {"name": "adapter", "model": {"path": tiny_model}, "adapter": tiny_adapter},
    ]
    both = benchmark.run(BenchSettings.model_validate(settings.model_dump() | {"policies": policies}), compat=True)
    assert [policy.counts["asked"] > 0 for policy in both.policies] == [False, True, False]  # equal weights are known
    assert {(c.before, c.after) for c in both.comparisons} == {("mavic", "base"), ("mavic", "adapter")}
    same = next(c for c in both.comparisons if c.after == "adapter" and c.method == "greedy")
    assert all(task.difference.low == task.difference.high == 0 for task in same.tasks.values())
