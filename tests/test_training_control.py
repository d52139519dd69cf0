"""What watches over a run, as pure rules: anomalies, the best validation, schedules."""

import math

import pytest

from dermo_ray.anomalies import Anomalies
from dermo_ray.config.control import AnomalySettings
from dermo_ray.config.training import OptimizerSettings
from dermo_ray.early_stopping import Best

SETTINGS = AnomalySettings(window=4, grad_norm_factor=5, reward_drop=0.3)


def after_a_calm_start(settings: AnomalySettings = SETTINGS) -> Anomalies:
    anomalies = Anomalies(settings)
    for norm in (1.0, 2.0, 1.5, 0.5):
        assert anomalies.observe(norm, reward=0.6) is None
    return anomalies


@pytest.mark.parametrize(
    ("grad_norm", "reward", "message"),
    [
        (6.0, 0.6, None),  # 5 times the median, 1.25, is 6.25
        (6.5, 0.6, "gradient's norm 6.5 is more than 5 times the median 1.25 of the 4 updates before"),
        (math.inf, 0.6, "gradient's norm inf"),
        (1.0, 0.31, None),
        (1.0, 0.29, "mean reward 0.290 is more than 0.3 below the median 0.600"),
    ],
)
def test_an_update_far_from_those_before_it_is_named(grad_norm: float, reward: float, message: str | None) -> None:
    found = after_a_calm_start().observe(grad_norm, reward)
    assert found is None if message is None else message in str(found)


def test_nothing_is_judged_before_the_window_is_full() -> None:
    assert Anomalies(SETTINGS).observe(1e9, -5.0) is None


def test_what_has_no_limit_is_never_an_anomaly() -> None:
    assert after_a_calm_start(AnomalySettings(window=4)).observe(1e9, -5.0) is None


def test_the_window_moves_on_so_that_a_slow_drift_is_no_anomaly() -> None:
    anomalies = after_a_calm_start()
    assert all(anomalies.observe(1.2**step, 0.6) is None for step in range(40))


def test_the_best_validation_is_the_first_to_exceed_all_before_by_the_gain() -> None:
    best = Best()
    assert [best.observe(v, r, min_gain=0.05) for v, r in [(0, 0.5), (2, 0.54), (4, 0.56), (6, 0.56)]] == [
        True,
        False,
        True,
        False,
    ]
    assert best == Best(version=4, reward=0.56, without_gain=1, last=6)


def test_patience_counts_validations_in_a_row_without_a_gain() -> None:
    best = Best()
    ended = []
    for version, reward in enumerate([0.5, 0.4, 0.6, 0.6, 0.3]):
        best.observe(version, reward, min_gain=0.0)
        ended.append(best.exhausted(patience=2))
    assert ended == [False, False, False, False, True]
    assert not best.exhausted(patience=None)


def test_the_rate_rises_in_the_warm_up_and_then_follows_its_schedule() -> None:
    def rates(schedule: str) -> list[float]:
        settings = OptimizerSettings.model_validate(
            {"learning_rate": 1.0, "warmup_steps": 2, "schedule": schedule, "final_share": 0.2}
        )
        return [settings.rate_at(step, steps=6) for step in range(7)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1, 1]
    assert rates("linear") == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert rates("cosine") == pytest.approx([0.5, 1, 1, 0.2 + 0.8 * (2 + math.sqrt(2)) / 4, 0.6, 0.317157288, 0.2])
