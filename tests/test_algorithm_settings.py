"""Presets fill in what is not given, and settings that don't fit together are refused with the way out."""

from pathlib import Path
from typing import Any, get_args

import pytest

from dermo_ray.algorithms import AGGREGATIONS, CORRECTIONS, ESTIMATORS, KL_ESTIMATORS, RATIOS, SURROGATES
from dermo_ray.config import describe, dump, load
from dermo_ray.config.algorithm import PRESETS, AlgorithmSettings
from dermo_ray.config.base import read
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.errors import UserError
from jobs.command import main

NEEDED = ["run=runs/a", "data=data", "model.path=model"]


def choices(field: str) -> set[Any]:
    """The names that a setting takes."""
    annotation: Any = AlgorithmSettings.model_fields[field].annotation
    options = [a for a in get_args(annotation) if a is not type(None)]
    return {name for option in options for name in (get_args(option) or (option,))}


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("preset", PRESETS),
        ("estimator", ESTIMATORS),
        ("surrogate", SURROGATES),
        ("ratio", RATIOS),
        ("aggregation", AGGREGATIONS),
        ("correction", CORRECTIONS),
        ("kl_kind", KL_ESTIMATORS),
    ],
)
def test_a_setting_takes_every_name_of_its_registry(field: str, registry: Any) -> None:
    assert choices(field) == set(registry)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_in_what_it_names_and_leaves_the_rest(preset: str) -> None:
    found = AlgorithmSettings(preset=preset).model_dump()  # type: ignore[arg-type]
    assert found == {**AlgorithmSettings().model_dump(), **PRESETS[preset], "preset": preset}


def test_dapo_is_what_its_paper_says() -> None:
    dapo = AlgorithmSettings(preset="dapo")
    assert (dapo.clip_low, dapo.clip_high, dapo.aggregation) == (0.2, 0.28, "token_mean")
    assert (dapo.dynamic_sampling, dapo.kl_coefficient) == (True, 0.0)
    assert dapo.overlong_share == pytest.approx(4096 / 20480)


def test_what_is_given_wins_over_the_preset_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "mavic.yaml"
    file.write_text("algorithm: {clip_high: 0.3}\n")
    config = load(MavicConfig, file, [*NEEDED, "algorithm.kl_coefficient=0.01", "algorithm.preset=dapo"])
    assert (config.algorithm.clip_high, config.algorithm.kl_coefficient) == (0.3, 0.01)
    assert config.algorithm.clip_low == 0.2
    assert config.algorithm.dynamic_sampling


def test_null_is_given_too() -> None:
    assert load(MavicConfig, None, [*NEEDED, "algorithm={preset: dapo, dual_clip: null}"]).algorithm.dual_clip is None


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_run_writes_down_holds_the_resolved_values(preset: str, tmp_path: Path) -> None:
    config = load(MavicConfig, None, [*NEEDED, f"algorithm.preset={preset}"])
    dump(config, tmp_path / "config.yaml")
    assert load(MavicConfig, tmp_path / "config.yaml") == config
    assert read(tmp_path / "config.yaml")["algorithm"] == config.algorithm.model_dump()
    unnamed = load(MavicConfig, tmp_path / "config.yaml", ["algorithm.preset=null"])
    assert unnamed.algorithm.model_dump(exclude={"preset"}) == config.algorithm.model_dump(exclude={"preset"})


def test_help_shows_the_resolved_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(MavicConfig, lambda config: None, "Trains.", ["algorithm.preset=dapo", "algorithm.max_refill=5", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for line in ("clip_high: float = 0.28", "max_refill: int = 5", "dynamic_sampling: bool = true"):
        assert f"algorithm.{line}" in shown
    assert "  run: Path = required" in shown


def test_a_description_of_nothing_given_is_that_of_the_defaults() -> None:
    assert list(describe(MavicConfig, given=read(None))) == list(describe(MavicConfig))
    given = {name: value for name, _, value, _ in describe(MavicConfig, given=read(None, NEEDED))}
    assert (given["data"], given["model.path"], given["model.dtype"]) == ("data", "model", "float32")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.preset=ppo", r"algorithm\.preset: .*'grpo'.*got 'ppo'"),
        ("algorithm.preset=[dapo]", r"algorithm\.preset: "),
        ("algorithm={preset: dapo, correction: tis}", "give correction=null, or old_policy=learner"),
        ("algorithm={surrogate: cispo, dual_clip: 3}", "dual_clip is part of surrogate=ppo"),
        ("algorithm.overlong_share=0.2", "overlong_share needs an overlong_penalty above 0"),
        ("algorithm.overlong_penalty=0.5", "overlong_penalty needs truncated=penalise"),
        ("algorithm.truncated=penalise", "truncated=penalise needs an overlong_penalty above 0"),
        ("lora.rank=7", r"lora\.rank: .*1, 8, 16, 32, 64, 128, 256, 320 or 512.*got 7"),
        ("vision=full", "vision=full needs lora=null"),
        ("vision=lora", r"vision=lora needs rollout\.engine\.vision_adapters=true"),
        ("rollout.merge_adapters=true & lora=null", r"rollout\.merge_adapters needs an adapter"),
        ("rollout={merge_adapters: true, engine: {vision_adapters: true}}", r"what rollout\.merge_adapters merges"),
        ("algorithm.correction_low=3", "correction_low must be at most correction_high"),
        ("algorithm.dual_clip=1", r"algorithm\.dual_clip: .*got 1"),
        ("algorithm.max_refill=0", r"algorithm\.max_refill: .*got 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(MavicConfig, None, [*NEEDED, *override.split(" & ")])
    assert "\n" not in str(caught.value)
