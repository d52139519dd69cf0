"""Experiment tracking over fake modules `wandb` and `mlflow`: what they are told, and that they can't harm a run."""

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dermo_ray.config.tracking import TrackingSettings
from dermo_ray.errors import UserError
from dermo_ray.tracking import Tracker, check_tracking

CONFIG = {"seed": 3, "rollout": {"workers": 2}}

Call = tuple[str, Any]


class FakeService(ModuleType):
    """A package that notes what it is told; `raises` is what logging raises."""

    def __init__(self, name: str, raises: Exception | None = None) -> None:
        super().__init__(name)
        self.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]  # so that it is found as installed
        self.told: list[Call] = []
        self.raises = raises

    def note(self, name: str, told: Any) -> None:
        self.told.append((name, told))
        if self.raises is not None:
            raise self.raises


class FakeWandb(FakeService):
    def init(self, **options: Any) -> SimpleNamespace:
        self.told.append(("init", options))
        return SimpleNamespace(
            define_metric=lambda name, step_metric: self.told.append(("define_metric", (name, step_metric))),
            log=lambda values: self.note("log", values),
            finish=lambda: self.told.append(("finish", None)),
        )


class FakeMlflow(FakeService):
    def set_experiment(self, name: str) -> None:
        self.told.append(("set_experiment", name))

    def start_run(self, run_id: str | None, run_name: str | None) -> SimpleNamespace:
        self.told.append(("start_run", (run_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "made by mlflow"))

    def log_params(self, params: dict[str, Any]) -> None:
        self.told.append(("log_params", params))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.note("log_metrics", (step, values))

    def end_run(self) -> None:
        self.told.append(("end_run", None))


def track(settings: TrackingSettings, run: Path, *updates: tuple[int, dict[str, float]]) -> None:
    run.mkdir(exist_ok=True)
    tracker = Tracker(settings, run, CONFIG)
    for step, values in updates:
        tracker.log(step, values)
    tracker.close()


def test_wandb_gets_settings_and_metrics_and_a_run_that_goes_on_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = TrackingSettings(to="wandb", project="moles")
    track(settings, tmp_path / "a-run", (1, {"loss": 0.5, "kl": math.nan}))
    track(settings, tmp_path / "a-run", (1, {"loss": 0.25}))
    names = [name for name, _ in fake.told]
    assert names == ["init", "define_metric", "log", "finish"] * 2
    first, second = (told for name, told in fake.told if name == "init")
    assert (first["project"], first["name"], first["config"]) == ("moles", "a-run", CONFIG)
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert fake.told[1][1] == ("*", "update")
    assert [told for name, told in fake.told if name == "log"] == [
        {"update": 1, "loss": 0.5},
        {"update": 1, "loss": 0.25},
    ]


def test_mlflow_gets_settings_once_and_metrics_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    settings = TrackingSettings(to="mlflow")
    track(settings, tmp_path / "a-run", (7, {"reward/total": 0.5}))
    track(settings, tmp_path / "a-run")
    assert fake.told == [
        ("set_experiment", "dermo-ray"),
        ("start_run", (None, "a-run")),
        ("log_params", {"seed": 3, "rollout.workers": 2}),
        ("log_metrics", (7, {"reward/total": 0.5})),
        ("end_run", None),
        ("set_experiment", "dermo-ray"),
        ("start_run", ("made by mlflow", None)),
        ("end_run", None),
    ]


def test_a_service_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeMlflow("mlflow", raises=ConnectionError("no route\nto host"))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    track(TrackingSettings(to="mlflow"), tmp_path / "a-run", (1, {"loss": 1.0}), (2, {"loss": 0.5}))
    assert capsys.readouterr().err == "tracking: no route to host\n" * 2
    assert fake.told[-1] == ("end_run", None)


def test_without_tracking_nothing_is_imported_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    track(TrackingSettings(), tmp_path / "a-run", (1, {"loss": 1.0}))
    assert list((tmp_path / "a-run").iterdir()) == []


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named_with_the_cure(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for start in (check_tracking, lambda settings: Tracker(settings, tmp_path, CONFIG)):
        with pytest.raises(UserError, match=f"needs the package {service}, which is not installed: .*pip install"):
            start(TrackingSettings(to=service))
