"""Settings load from YAML and overrides, and every mistake is one line that helps."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from dermo_ray.config import RewardConfig, Settings, describe, dump, load
from dermo_ray.config.reward import FaultCosts, TermWeights
from dermo_ray.errors import UserError


class Engine(Settings):
    """A nested group."""

    workers: int = Field(default=2, ge=0)
    """How many engines run."""
    accelerator_type: str | None = None
    """What they run on."""


class Job(Settings):
    """A whole job."""

    out: Path
    """Where the run is written,
    over two lines."""
    learning_rate: float = 2e-4
    """Step size."""
    tasks: list[str] = Field(default=["task1", "task3"])
    """What is trained."""
    mode: Literal["sync", "async"] = "sync"
    """How it runs."""
    engine: Engine = Engine()
    """The engines."""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    job = load(Job, write(tmp_path, "out: runs/a\nengine:\n  workers: 4\n"))

    assert job == Job(out=Path("runs/a"), engine=Engine(workers=4))


def test_overrides_win_over_the_file_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "out: runs/a\nlearning_rate: 1.0\nengine: {workers: 4, accelerator_type: H100}\n")

    job = load(Job, path, ["learning_rate=1.0e-3", "engine.workers=0", "tasks=[task3]", "engine.accelerator_type=null"])

    assert job == Job(out=Path("runs/a"), learning_rate=1e-3, tasks=["task3"], engine=Engine(workers=0))


def test_overrides_alone_make_a_job_and_may_hold_equal_signs() -> None:
    assert load(Job, None, ["out=runs/a=b"]).out == Path("runs/a=b")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["out=a", "learning_rat=1"], ["learning_rat", "did you mean learning_rate?"]),
        (["out=a", "engine.worker=1"], ["engine.worker", "did you mean engine.workers?"]),
        (["out=a", "engine.zzz=1"], ["engine.zzz", "workers, accelerator_type"]),
        (["out=a", "engin.workers=1"], ["engin", "did you mean engine?"]),
        (["out=a", "learning_rate=fast"], ["learning_rate", "number", "'fast'"]),
        (["out=a", "engine.workers=-1"], ["engine.workers", "-1"]),
        (["out=a", "engine=3"], ["engine", "3"]),
        (["out=a", "mode=turbo"], ["mode", "'sync' or 'async'", "'turbo'"]),
        (["learning_rate=1"], ["out is required"]),
        (["out"], ["key.sub=value", "'out'"]),
        (["=1"], ["key.sub=value"]),
        (["out=["], ["out=[", "YAML"]),
        (["out=a", "out.b=1"], ["out is a single value"]),
        (["out=a", "mode=turbo", "learning_rate=fast"], ["mode", "learning_rate"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load(Job, None, overrides)

    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(("text", "part"), [("a: [", "not valid YAML"), ("- a\n- b\n", "mapping"), ("word", "mapping")])
def test_a_malformed_file_is_one_line_that_names_it(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UserError, match=part) as error:
        load(Job, write(tmp_path, text))

    assert "job.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such settings file: .*absent\.yaml"):
        load(Job, tmp_path / "absent.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(RewardConfig, write(tmp_path, "")) == RewardConfig()


def test_what_is_dumped_loads_equal(tmp_path: Path) -> None:
    settings = RewardConfig(gate="schema", weights=TermWeights(format=0.3), taxonomy=Path("träe.yaml"))

    dump(settings, tmp_path / "job.yaml")

    assert load(RewardConfig, tmp_path / "job.yaml") == settings


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RewardConfig().tau = 0.1  # type: ignore[misc]


def test_every_leaf_setting_is_described_in_order_with_its_docstring() -> None:
    assert list(describe(Job)) == [
        ("out", "Path", "required", "Where the run is written, over two lines."),
        ("learning_rate", "float", "0.0002", "Step size."),
        ("tasks", "list[str]", "[task1, task3]", "What is trained."),
        ("mode", "sync | async", "sync", "How it runs."),
        ("engine.workers", "int", "2", "How many engines run."),
        ("engine.accelerator_type", "str | null", "None", "What they run on."),
    ]


def test_every_reward_setting_has_a_docstring() -> None:
    described = {name: help_text for name, _, _, help_text in describe(RewardConfig)}

    assert all(described.values())
    assert {f"weights.{name}" for name in TermWeights.model_fields} <= described.keys()
    assert {f"faults.{name}" for name in FaultCosts.model_fields} <= described.keys()


@pytest.mark.parametrize(
    "override",
    ["weights.format=-1", "weights.format=.nan", "weights.format=.inf", "tau=0", "tau=1.1", "gate=wide",
     "faults.invalid_json=2", "weights={format: 0, diagnosis: 0, taxonomy: 0, morphology: 0, consistency: 0}"],
)  # fmt: skip
def test_a_reward_setting_out_of_range_is_refused(override: str) -> None:
    with pytest.raises(UserError):
        load(RewardConfig, None, [override])


class Speed(Settings):
    """A group with defaults of its own."""

    rate: float = 1.0
    """Rate."""
    warmup: int = 0
    """Warm-up."""


class Vehicle(Settings):
    """An owner that wants other defaults."""

    speed: Speed = Speed(rate=0.1)
    """How fast."""


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], (0.1, 0)), (["speed.warmup=5"], (0.1, 5)), (["speed.rate=2"], (2.0, 0)), (["speed={}"], (0.1, 0))],
)
def test_a_group_given_in_part_keeps_the_other_defaults_of_its_owner(
    overrides: list[str], expected: tuple[float, int]
) -> None:
    speed = load(Vehicle, None, overrides).speed
    assert (speed.rate, speed.warmup) == expected
