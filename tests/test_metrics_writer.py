"""What is written to a run's metrics can be read back, also after a run was cut off."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dermo_ray.metrics import METRICS, TENSORBOARD, MetricsWriter
from dermo_ray.report.metrics import read_metrics


def scalars(run, key):
    events = EventAccumulator(str(run / TENSORBOARD))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


def test_values_come_back_from_the_file_and_from_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, {"loss": 2.0})
        metrics.write(2, {"loss": 1.5, "val_loss": 1.75})
        assert read_metrics(tmp_path / METRICS)["loss"].values.tolist() == [2.0, 1.5]  # readable while it is written
    assert read_metrics(tmp_path / METRICS)["val_loss"].steps.tolist() == [2]
    assert scalars(tmp_path, "loss") == [(1, 2.0), (2, 1.5)]


def test_a_resumed_run_drops_later_steps_and_a_line_cut_off(tmp_path):
    with MetricsWriter(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"loss": float(step)})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 2, "lo')
    with MetricsWriter(tmp_path, resumed_step=1) as metrics:
        metrics.write(2, {"loss": 20.0})
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 20.0)]
    assert lines[0]["time"] < lines[1]["time"]
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 20.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_valid_json_and_left_out_of_the_curve(tmp_path, value):
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, {"loss": value, "rate": 0.5})
    assert json.loads((tmp_path / METRICS).read_text(), parse_constant=pytest.fail)["loss"] is None
    assert set(read_metrics(tmp_path / METRICS)) == {"time", "rate"}
