"""What a run shows of itself: TensorBoard's samples, metrics for Prometheus, and a dashboard that names only those."""

import ast
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors import exporting
from actors.exporting import EXPORTED, POOL_CALLS, POOL_WORKERS, UPDATES, Exported, Exporter, exported_as
from dermo_ray.metrics import TENSORBOARD, MetricsWriter
from dermo_ray.rollouts import read
from dermo_ray.samples import reward_values, sample_cards

ROOT = Path(__file__).parent.parent
DASHBOARD = json.loads((ROOT / "deploy/grafana/dermo-ray.json").read_text())


class FakeGauge:
    """Stands for Ray's gauge, which gives nothing back."""

    values: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == set(self.tag_keys)  # Ray refuses anything else
        self.values[self.name, frozenset(tags.items())] = value


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    FakeGauge.values = {}
    monkeypatch.setattr(exporting, "Gauge", FakeGauge)
    return FakeGauge.values


def test_every_metric_of_an_update_is_exported_with_what_its_key_says_as_tags(values: dict[Any, float]) -> None:
    Exporter("a-run").update(
        3, {"reward/total": 0.5, "staleness/max": 1.0, "seconds/update": 2.5, "loss": -0.1, "kl": float("nan")}
    )
    assert values == {
        ("dermo_ray_updates", frozenset({("run", "a-run")})): 3,
        ("dermo_ray_reward", frozenset({("run", "a-run"), ("term", "total")})): 0.5,
        ("dermo_ray_staleness", frozenset({("run", "a-run"), ("statistic", "max")})): 1.0,
        ("dermo_ray_step_seconds", frozenset({("run", "a-run"), ("part", "update")})): 2.5,
        ("dermo_ray_metric", frozenset({("run", "a-run"), ("metric", "loss")})): -0.1,
    }


def test_pools_are_counted(values: dict[Any, float]) -> None:
    pool: Any = SimpleNamespace(workers=[SimpleNamespace(running=2), SimpleNamespace(running=1)])
    Exporter("a-run").pools({"rollout": pool})
    tags = frozenset({("run", "a-run"), ("pool", "rollout")})
    assert values == {("dermo_ray_pool_workers", tags): 2, ("dermo_ray_pool_calls", tags): 3}


EXPORTED_AS = {"Counter": ("{}_total",), "Gauge": ("{}",), "Histogram": ("{}_bucket", "{}_sum", "{}_count")}
"""How prometheus_client names what it exports."""


def declared_in_code() -> dict[str, set[str]]:
    """Every metric by the name that Prometheus sees, with its labels: those of training, and the service's."""
    found = {
        f"ray_{entry.name}": {"run", *re.compile(entry.keys).groupindex}
        for entry in (*EXPORTED, UPDATES, POOL_WORKERS, POOL_CALLS)
    }
    for node in ast.walk(ast.parse((ROOT / "serve/metrics.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and called(node) in EXPORTED_AS:
            name, *others = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            found |= {pattern.format(name): set(map(str, others)) for pattern in EXPORTED_AS[called(node)]}
    return found


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_the_dashboard_does_not_stack_the_whole_time_of_a_step_on_its_parts() -> None:
    (parts,) = [text for text in expressions() if "step_seconds" in text]
    assert 'part!="step"' in parts


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def test_every_metric_and_tag_of_the_dashboard_is_one_that_the_code_exports() -> None:
    declared = declared_in_code()
    metric = re.compile(r"\b((?:ray_)?dermo_ray_\w+)\{([^}]*)\}")
    used = [use for text in expressions() for use in metric.findall(text)]
    assert len(used) >= len(expressions())
    for name, selectors in used:
        assert name in declared, name
        tags = set(re.findall(r"(\w+)(?:=~|!=|=)", selectors))
        assert tags <= declared[name], name


def test_the_dashboard_shows_pools_staleness_throughput_rewards_and_serving() -> None:
    text = " ".join(expressions())
    assert "dermo_ray_request_seconds_bucket" in text
    for entry in (*EXPORTED, UPDATES, POOL_WORKERS, POOL_CALLS):
        assert entry.name in text


def test_metrics_picked_out_by_key_are_ones_that_runs_report() -> None:
    chosen = [keys for text in expressions() for keys in re.findall(r'metric=~?"([^"]+)"', text)]
    keys = {key for alternatives in chosen for key in alternatives.split("|")}
    page = (ROOT / "docs/mavic.md").read_text()
    assert keys
    assert [key for key in keys if f"`{key}`" not in page] == []


@pytest.mark.parametrize("key", ["reward/total", "loss", "watch/constant_groups", "tokens_per_second"])
def test_a_key_belongs_to_the_first_pattern_that_it_fits(key: str) -> None:
    entry, _ = exported_as(key)
    assert entry is next(e for e in EXPORTED if re.fullmatch(e.keys, key))
    assert isinstance(entry, Exported)


def test_tensorboard_shows_how_rewards_are_spread_and_completions_beside_their_image(
    synthetic_run: Path, tmp_path: Path
) -> None:
    rows = read(synthetic_run / "rollouts")
    spread = reward_values(rows)
    assert spread["reward/total"] == [row.reward for row in rows]
    cards = sample_cards(rows, synthetic_run / "data")
    with MetricsWriter(tmp_path) as writer:
        writer.write_histograms(4, spread)
        writer.write_images(4, cards)
    events = EventAccumulator(str(tmp_path / TENSORBOARD), size_guidance={"images": 0})
    events.Reload()
    (histogram,) = events.Histograms("reward/total")
    assert (histogram.step, histogram.histogram_value.num) == (4, len(rows))
    assert histogram.histogram_value.max == pytest.approx(max(row.reward for row in rows))
    assert sorted(events.Tags()["images"]) == ["samples/highest", "samples/lowest", "samples/middle"]


def test_a_card_holds_the_image_and_text_within_its_edges(synthetic_run: Path) -> None:
    row = read(synthetic_run / "rollouts")[0].model_copy(update={"text": "word " * 400 + "x" * 400})
    card = sample_cards([row], synthetic_run / "data")["middle"]
    with Image.open(synthetic_run / "data" / row.image) as image:
        assert np.array_equal(np.asarray(card)[16 : 16 + image.height, 16 : 16 + image.width], np.asarray(image))
    ink = np.argwhere(np.asarray(card.convert("L")) < 200)
    assert ink.max(axis=0).tolist() <= [card.height - 4, card.width - 4]
    assert sample_cards([], synthetic_run) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_can_read_what_is_recorded() -> None:
    exporter = Exporter("a-run")
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    text = ""
    while "ray_dermo_ray_reward{" not in text:
        assert time.monotonic() < deadline, "Ray's agent did not export the reward within 60 s"
        exporter.update(3, {"reward/total": 0.5})
        time.sleep(1)
        text = httpx.get(address, timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith("ray_dermo_ray_reward{")]
    assert 'run="a-run"' in line
    assert 'term="total"' in line
    assert float(line.rpartition(" ")[2]) == 0.5
