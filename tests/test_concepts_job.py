"""Training of the concept model end to end: two ranks on phantoms with careless annotators, resume, what comes out."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

from dermo_ray import checkpoints
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.errors import UserError
from dermo_ray.metrics import METRICS
from dermo_ray.models.concepts import ConceptScorer
from dermo_ray.models.concepts.data import ConceptSamples
from dermo_ray.report.metrics import read_metrics
from dermo_ray.run_directory import STOP
from jobs import concepts, prepare, training

STEPS = 6


@pytest.fixture(scope="module")
def data(ray_cluster, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("concepts-data") / "data"
    prepare.run(
        PrepareConfig(
            source="phantoms",
            count=160,
            out=out,
            phantom={"size": 48},
            noise={"attenuation": 0.5, "omission": 0.2},
            split={"val": 0.15, "test": 0.15},
        )
    )
    return out


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory):
    """Makes the settings of a run of six updates on two ranks."""

    def make(name: str, **values) -> ConceptsConfig:
        common = {
            "run": tmp_path_factory.mktemp("runs") / name,
            "data": data,
            "encoder": {"size": 48, "widths": [8, 16], "depths": [1, 1]},
            "optimizer": {"learning_rate": 3e-3, "max_grad_norm": 5.0},
            "pool": {"workers": 2},
            "steps": STEPS,
            "batch_size": 15,
            "validation": {"every": 3},
            "keep_checkpoints": 2,
        }
        return ConceptsConfig.model_validate(common | values)

    return make


@pytest.fixture(scope="module")
def straight(settings) -> ConceptsConfig:
    """A finished run that was never stopped."""
    config = settings("straight")
    concepts.run(config)
    return config


def newest(config: ConceptsConfig) -> Path:
    checkpoint = checkpoints.latest(config.run / "checkpoints")
    assert checkpoint is not None
    return checkpoint


def test_the_loss_falls_and_the_metrics_are_complete(straight):
    series = read_metrics(straight.run / METRICS)
    assert series["loss"].steps.tolist() == list(range(1, STEPS + 1))
    assert series["val_loss"].steps.tolist() == [3, 6]
    assert series["val_loss"].values[-1] < series["val_loss"].values[0]
    heads = ("skincon", "derm7pt", "skincon/diagnosis", "derm7pt/diagnosis")
    assert {f"{kind}/{head}" for head in heads for kind in ("loss", "val_loss", "ece_before", "ece_after")} < set(
        series
    )
    assert {"learning_rate", "grad_norm", "samples_per_second", "epoch"} <= series.keys()
    assert list((straight.run / "tensorboard").iterdir())


def test_the_checkpoint_holds_a_calibrated_model_that_the_reward_can_ask(straight, data):
    model = AutoModel.from_pretrained(newest(straight) / "model")
    samples = ConceptSamples.read(data, "train")
    assert model.config.labels == samples.vocabulary()
    assert set(model.config.temperatures) == {"skincon", "derm7pt", "skincon/diagnosis", "derm7pt/diagnosis"}
    scorer = ConceptScorer.of(newest(straight) / "model")
    with Image.open(samples.images[0]) as image:
        seen = scorer.concepts(image)
    assert all(
        (probabilities >= 0).all() and (probabilities <= 1).all() for probabilities in seen.probabilities.values()
    )


def test_what_comes_out_is_measured_against_annotators_and_truth(straight):
    measures = json.loads((straight.run / "evaluation.json").read_text())
    assert measures["split"] == "test"
    assert measures["concepts"].keys() == {"annotation", "truth"}
    assert measures["diagnosis"].keys() == {"skincon", "derm7pt"}
    assert (straight.run / "report.html").exists()
    assert (straight.run / "linear_head.png").exists()
    assert (straight.run / "evaluation" / "predictions.parquet").exists()


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(straight, settings):
    config = settings("resumed")
    shutil.copytree(straight.run, config.run, symlinks=True)
    shutil.rmtree(config.run / "checkpoints" / checkpoints.step_name(STEPS))
    (config.run / "checkpoints" / "latest").unlink()
    (config.run / "checkpoints" / "latest").symlink_to(checkpoints.step_name(3))
    concepts.run(config)
    assert_same_end(config, straight)


def assert_same_end(config: ConceptsConfig, straight: ConceptsConfig) -> None:
    saved = [torch.load(newest(c) / "learner" / "learner.pt")["model"] for c in (straight, config)]
    assert max(float((saved[0][name] - saved[1][name]).abs().max()) for name in saved[0]) < 1e-5
    assert checkpoints.read_state(newest(config)) == pytest.approx(checkpoints.read_state(newest(straight)))
    steps = [json.loads(line)["step"] for line in (config.run / METRICS).read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_run_stopped_between_validations_goes_on_from_there_to_the_same_end(straight, settings, monkeypatch, capsys):
    config, stoppable = settings("stopped between"), training.stoppable

    @contextmanager
    def stopped_at_once(run: Path) -> Iterator[None]:
        with stoppable(run):
            (run / STOP).touch()  # as SIGTERM would
            yield

    monkeypatch.setattr(training, "stoppable", stopped_at_once)
    with pytest.raises(SystemExit) as exited:
        concepts.run(config)
    monkeypatch.undo()
    assert (exited.value.code, "stopped with a checkpoint" in capsys.readouterr().err) == (0, True)
    assert checkpoints.read_state(newest(config))["step"] == 1
    assert ConceptScorer.of(newest(config) / "model")
    concepts.run(config)
    assert_same_end(config, straight)


def test_a_finished_run_is_measured_again_and_not_trained(straight, capsys):
    before = load_file(newest(straight) / "model" / "model.safetensors")
    (straight.run / "evaluation.json").unlink()
    concepts.run(straight)
    assert "images of the test split" in capsys.readouterr().out
    assert (straight.run / "evaluation.json").exists()
    after = load_file(newest(straight) / "model" / "model.safetensors")
    assert all(weight.equal(after[name]) for name, weight in before.items())
    with pytest.raises(UserError, match="has a run of 6 updates"):
        concepts.run(straight.model_copy(update={"resume": False}))


@pytest.mark.slow
def test_a_run_ends_early_where_the_validation_loss_does_not_fall(settings):
    config = settings(
        "stopped", optimizer={"learning_rate": 0.5}, diagnosis_learning_rate=5.0, validation={"every": 1, "patience": 1}
    )
    concepts.run(config)
    state = checkpoints.read_state(newest(config))
    assert state["step"] < STEPS
    assert state["best_step"] == state["step"] - 1


def test_without_any_annotation_nothing_starts(settings, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    table = pq.read_table(data / "samples.parquet")
    bare = table.set_column(table.schema.get_field_index("annotation"), "annotation", pa.nulls(len(table), pa.string()))
    pq.write_table(bare, tmp_path / "data" / "samples.parquet")
    with pytest.raises(UserError, match="no annotated image in its train split: there"):
        concepts.run(settings("bare", data=tmp_path / "data"))
    by_machine = table.set_column(
        table.schema.get_field_index("annotator"),
        "annotator",
        pa.array([json.dumps({"morphology": {"model": "m"}})] * len(table), pa.string()),
    )
    pq.write_table(by_machine, tmp_path / "data" / "samples.parquet")
    with pytest.raises(UserError, match=r"train split but \d+ by machines, which machine_annotations=true learns from"):
        concepts.run(settings("by machines", data=tmp_path / "data"))
    unlabelled = by_machine.set_column(
        table.schema.get_field_index("label"), "label", pa.nulls(len(table), pa.string())
    )
    pq.write_table(unlabelled, tmp_path / "data" / "samples.parquet")
    with pytest.raises(UserError, match="no image in its val split that a person annotated"):
        concepts.run(settings("unvalidated by people", data=tmp_path / "data", machine_annotations=True))
    pq.write_table(table.filter(pc.not_equal(table["split"], "val")), tmp_path / "data" / "samples.parquet")
    with pytest.raises(UserError, match="no image in its val split"):
        concepts.run(settings("unvalidated", data=tmp_path / "data"))
