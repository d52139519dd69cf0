"""Settings of an evaluation: what can't be meant is refused before anything starts."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dermo_ray.config.bench import BenchSettings, PolicySettings
from dermo_ray.config.evaluate import EvaluateConfig
from jobs.policies import checkpoint_of, fingerprint
from tests.bench_cases import settings

ENDPOINT = {"base_url": "http://localhost:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"policies": [{"name": "p"}]}, "by one of run, model and endpoint"),
        ({"policies": [{"name": "p", "run": "r", "endpoint": ENDPOINT}]}, "by one of run, model and endpoint"),
        ({"policies": [{"name": "p", "run": "r", "adapter": "a"}]}, "an adapter needs model"),
        ({"policies": [{"name": "p", "endpoint": ENDPOINT}] * 2}, "two policies have one name"),
        ({"items": {"prepared": "a", "release": "b"}}, "give one of them"),
        ({"items": {"release": "b"}}, "images=DIR belongs to release=DIR"),
        ({"items": {"prepared": "a", "skin_tones": "c"}}, "skin_tones belongs to release"),
        ({"items": {"release": "b", "images": "i", "sources": ["ddi"]}}, "sources belongs to prepared"),
        ({"methods": ["cct"]}, "methods needs greedy"),
        ({"methods": ["greedy", "cct"]}, "methods needs majority beside cct"),
        ({"methods": ["greedy", "cct_early"]}, "methods needs majority beside cct"),
        ({"cct": {"stop": "certain"}}, "cct.stop must stay never"),
        ({"policies": [{"name": "p", "run": "r"}], "engine": {"max_model_len": 256}}, "room for the prompt"),
    ],
)
def test_settings_of_the_benchmark_that_contradict_each_other_are_refused(values, cause, tmp_path):
    with pytest.raises(ValidationError, match=cause):
        settings(tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({}, "nothing to measure"),
        ({"run": "r"}, "both run=DIR and data=DIR"),
        ({"run": "r", "data": "d", "compat": True}, "compat"),
    ],
)
def test_an_evaluation_must_have_something_to_measure(values, cause):
    with pytest.raises(ValidationError, match=cause):
        EvaluateConfig.model_validate(values)


def test_a_benchmark_alone_is_enough_to_measure(tmp_path):
    config = EvaluateConfig(bench=settings(tmp_path).model_dump())
    assert isinstance(config.bench, BenchSettings)
    assert config.run is None


def test_each_kind_of_policy_is_found_by_its_weights(tiny_model: Path, tiny_adapter: Path, trained_run: Path):
    policies = [
        PolicySettings(name="base", model={"path": tiny_model}),
        PolicySettings(name="adapted", model={"path": tiny_model}, adapter=tiny_adapter),
        PolicySettings(name="run", run=trained_run),
        PolicySettings(name="server", endpoint=ENDPOINT),
    ]
    base, adapted, run, server = (checkpoint_of(policy) for policy in policies)
    assert (base.adapter, base.lora_rank) == (None, None)
    assert (adapted.adapter, adapted.lora_rank) == (tiny_adapter, 8)
    assert (run.lora_rank, run.version) == (8, 7)
    assert server is None
    prints = [fingerprint(p, c) for p, c in zip(policies, (base, adapted, run, server), strict=True)]
    assert len({prints[0], prints[1], prints[3]}) == 3
