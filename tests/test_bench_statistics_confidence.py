"""Calibration and selective prediction: by hand, and against loops over items, bins and orders."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.bench.calibration import Binning, calibration, ece, reliability
from dermo_ray.bench.selective import aurc, risk_coverage, selective, selective_accuracy

ANSWERS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.55, 0.9, 1.0]), st.booleans()), min_size=1, max_size=5)


def test_calibration_error_by_hand() -> None:
    # two bins: {0.2, 0.4}, one right: |1/2 - 0.3|; {0.6, 0.8, 1.0}, two right: |2/3 - 0.8|
    confidence, right = [0.2, 0.4, 0.6, 0.8, 1.0], [True, False, True, False, True]
    assert ece(confidence, right, bins=2) == pytest.approx(2 / 5 * 0.2 + 3 / 5 * (0.8 - 2 / 3))
    low, high = reliability(confidence, right, bins=2)
    assert (low.items, low.confidence, low.accuracy) == (2, pytest.approx(0.3), 0.5)
    assert (high.items, high.confidence, high.accuracy) == (3, pytest.approx(0.8), pytest.approx(2 / 3))


def test_bins_of_equal_mass_hold_equally_many_items() -> None:
    confidence = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97]
    bins = reliability(confidence, [True] * 8, bins=4, binning="equal_mass")
    assert [found.items for found in bins] == [2, 2, 2, 2]
    # by hand, two bins: {.9 to .93} one right of four, {.94 to .97} all right
    right = [True, False, False, False, True, True, True, True]
    expected = (abs(0.25 - 0.915) + abs(1 - 0.955)) / 2
    assert ece(confidence, right, bins=2, binning="equal_mass") == pytest.approx(expected)


def test_an_empty_bin_is_left_out_and_ties_share_a_bin() -> None:
    assert [found.items for found in reliability([0.05, 0.95, 0.96], [True] * 3, bins=10)] == [1, 2]
    assert [found.items for found in reliability([0.7] * 9 + [0.9], [True] * 10, bins=5, binning="equal_mass")] == [
        9,
        1,
    ]


def ece_by_loop(confidence: list[float], right: list[bool], bins: int) -> float:
    total = 0.0
    for place in range(bins):
        last = place == bins - 1
        inside = [
            (c, r)
            for c, r in zip(confidence, right, strict=True)
            if place / bins <= c and (c < (place + 1) / bins or last)
        ]
        if inside:
            gap = sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            total += abs(gap) * len(inside) / len(confidence)
    return total


def test_calibration_error_agrees_with_a_loop_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(500), rng.random(500) < 0.6
    assert ece(confidence, right, bins=8) == pytest.approx(ece_by_loop(confidence.tolist(), right.tolist(), 8))


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_the_interval_of_the_calibration_error_finds_the_truth_and_holds_the_estimate(binning: Binning) -> None:
    rng = np.random.default_rng(1)
    found = []
    for seed in range(30):
        confidence = rng.beta(4, 2, 1000)
        right = rng.random(1000) < np.clip(confidence - 0.15, 0, 1)
        found.append(calibration(confidence, right, resamples=200, seed=seed).ece[binning])
    assert all(interval.low <= interval.mean <= interval.high for interval in found)
    assert sum(interval.low <= 0.15 <= interval.high for interval in found) >= 25


def test_the_error_that_noise_alone_makes_is_told() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.beta(4, 2, 600)
    expected = calibration(confidence, rng.random(600) < confidence, resamples=10).ece_if_calibrated
    for binning in ("equal_width", "equal_mass"):
        simulated = [ece(confidence, rng.random(600) < confidence, binning=binning) for _ in range(300)]
        assert expected[binning] == pytest.approx(np.mean(simulated), rel=0.05)


def test_the_interval_is_that_of_the_estimate() -> None:
    confidence, right = np.linspace(0.1, 1, 40), np.arange(40) % 3 > 0
    found = calibration(confidence, right, bins=6)
    assert found.bins == 6
    for binning, interval in found.ece.items():
        assert interval.mean == pytest.approx(ece(confidence, right, bins=6, binning=binning))


def risks_by_order(confidence: list[float], right: list[bool]) -> list[float]:
    """The risk of the k surest for each k, the mean over all orders of the items that keep the surest first."""
    places = range(len(right))
    orders = [
        order for order in permutations(places) if all(confidence[a] >= confidence[b] for a, b in pairwise(order))
    ]
    return [
        float(np.mean([np.mean([not right[i] for i in order[:k]]) for order in orders]))
        for k in range(1, len(right) + 1)
    ]


@given(ANSWERS)
def test_the_area_and_each_accuracy_are_means_over_the_orders_of_ties(answers: list[tuple[float, bool]]) -> None:
    confidence, right = map(list, zip(*answers, strict=True))
    risks = risks_by_order(confidence, right)
    assert aurc(confidence, right) == pytest.approx(np.mean(risks))
    for k, risk in enumerate(risks, start=1):
        assert selective_accuracy(confidence, right, k / len(right)) == pytest.approx(1 - risk)


def test_the_curve_by_hand() -> None:
    curve = risk_coverage([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    assert curve.confidence.tolist() == [0.9, 0.8, 0.1]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])


def test_coverage_is_rounded_up_to_whole_items() -> None:
    confidence, right = np.arange(100) / 100, np.arange(100) >= 93
    assert selective_accuracy(confidence, right, 0.07) == 1  # 0.07 * 100 is a little above 7
    assert selective_accuracy(confidence, right, 0.071) == pytest.approx(7 / 8)
    assert selective_accuracy(confidence, right, 0.001) == 1


def test_a_constant_confidence_gains_nothing() -> None:
    found = selective([0.5] * 10, [True] * 6 + [False] * 4)
    assert found.gain.mean == pytest.approx(0)
    assert found.selective_accuracy.mean == pytest.approx(0.6)
    assert found.aurc.mean == pytest.approx(0.4)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_intervals_agree_with_resampled_copies(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    confidence = rng.integers(0, 40, 300) / 40
    right = rng.random(300) < 0.3 + 0.6 * confidence
    lesions = np.arange(300) // 3 if grouped else np.arange(300)
    found = selective(confidence, right, groups=lesions if grouped else None)
    scores = []
    for _ in range(800):
        lesion = rng.choice(np.unique(lesions), len(np.unique(lesions)))
        drawn = np.concatenate([np.flatnonzero(lesions == name) for name in lesion])
        c, r = confidence[drawn], right[drawn]
        scores.append((selective_accuracy(c, r, 0.8), selective_accuracy(c, r, 0.8) - r.mean(), aurc(c, r)))
    low, high = np.quantile(scores, [0.025, 0.975], axis=0)
    for place, interval in enumerate((found.selective_accuracy, found.gain, found.aurc)):
        assert interval.low == pytest.approx(low[place], abs=0.012)
        assert interval.high == pytest.approx(high[place], abs=0.012)
    assert found.gain.low > 0


def test_results_do_not_depend_on_the_order_of_items() -> None:
    rng = np.random.default_rng(4)
    confidence, right = rng.integers(0, 9, 200) / 8, rng.random(200) < 0.5
    order = rng.permutation(200)
    assert aurc(confidence, right) == pytest.approx(aurc(confidence[order], right[order]))
    for binning in ("equal_width", "equal_mass"):
        assert ece(confidence, right, binning=binning) == pytest.approx(
            ece(confidence[order], right[order], binning=binning)
        )


def test_what_is_no_confidence_is_refused() -> None:
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"not in \[0, 1\]: index 1"):
            ece([0.5, bad], [True, False])
    with pytest.raises(ValueError, match="one n above 0"):
        aurc([0.5], [True, False])
    with pytest.raises(ValueError, match="one n above 0"):
        calibration([], [])
    for coverage in (0.0, 1.1):
        with pytest.raises(ValueError, match="coverage"):
            selective([0.5], [True], coverage=coverage)
        with pytest.raises(ValueError, match="coverage"):
            selective_accuracy([0.5], [True], coverage)
