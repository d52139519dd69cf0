"""Metrics by hand; bootstrap intervals against naive resampling and against theory."""

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from dermo_ray.bench import (
    Interval,
    accuracy,
    balanced_accuracy,
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
)

TRUTH = ["nevus", "nevus", "nevus", "nevus", "melanoma", "melanoma"]
PREDICTED = ["nevus", "nevus", "nevus", "melanoma", "melanoma", "eczema"]


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(TRUTH, PREDICTED) == pytest.approx(4 / 6)
    assert accuracy([1, 2], [1, 3]) == 0.5


def test_balanced_accuracy_is_the_mean_recall_over_the_classes_of_the_truth() -> None:
    # nevus 3 of 4, melanoma 1 of 2; eczema is no class of the truth
    assert balanced_accuracy(TRUTH, PREDICTED) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_a_missing_prediction_is_a_wrong_one() -> None:
    assert accuracy(["a", "b"], [None, "b"]) == 0.5
    assert balanced_accuracy(["a", "b"], [None, "b"]) == 0.5


def test_weights_count_items_as_often_as_they_say() -> None:
    weights = np.array([[1.0, 1, 1, 1, 1, 1], [0, 0, 0, 4, 1, 1], [0, 0, 1, 1, 0, 0]])
    assert accuracy(TRUTH, PREDICTED, weights).tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 2])
    # second row: nevus 0, melanoma 1/2; third: melanoma is not there
    assert balanced_accuracy(TRUTH, PREDICTED, weights).tolist() == pytest.approx([0.625, 0.25, 0.5])


def test_the_interval_holds_the_mean_and_narrows_with_the_sample() -> None:
    values = np.random.default_rng(1).normal(3, 1, 400)
    interval = bootstrap_mean(values)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low < interval.mean < interval.high
    # half a width of 1.96 standard errors
    standard_error = values.std() / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.08)
    wider = bootstrap_mean(values[:100])
    assert wider.high - wider.low > 1.5 * (interval.high - interval.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(0, 1, (400, 60))
    intervals = [bootstrap_mean(sample, resamples=400, level=0.8, seed=i) for i, sample in enumerate(samples)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals) / 400
    assert 0.74 < covered < 0.85


def test_two_values_by_hand() -> None:
    # resamples of {0, 1} have means 0, 1/2, 1 with shares 1/4, 1/2, 1/4
    assert bootstrap_mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)
    assert bootstrap_mean([0.0, 1.0], level=0.4) == Interval(0.5, 0.5, 0.5)


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    values = np.random.default_rng(3).random(50)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_one_value_and_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([0.25]) == Interval(0.25, 0.25, 0.25)
    assert bootstrap_mean([0.5] * 9) == Interval(0.5, 0.5, 0.5)


def naive_bootstrap(
    truth: NDArray[np.str_], predicted: NDArray[np.str_], groups: NDArray[np.int64] | None
) -> tuple[float, float]:
    """Balanced accuracy of resampled copies of the items, one resample at a time."""
    rng = np.random.default_rng(11)
    units = np.arange(len(truth)) if groups is None else groups
    names = np.unique(units)
    members = {name: np.flatnonzero(units == name) for name in names}
    values = []
    for _ in range(3000):
        chosen = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        t, p = truth[chosen], predicted[chosen]
        values.append(np.mean([np.mean(p[t == label] == label) for label in np.unique(t)]))
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


@pytest.mark.parametrize("grouped", [False, True])
def test_the_weighted_bootstrap_agrees_with_resampled_copies(grouped: bool) -> None:
    rng = np.random.default_rng(7)
    truth = rng.choice(["a", "b", "c"], 120, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(120) < 0.6, truth, "a")
    groups = rng.integers(0, 30, 120) if grouped else None
    interval = bootstrap_statistic([truth, predicted], balanced_accuracy, groups=groups, resamples=3000)
    low, high = naive_bootstrap(truth, predicted, groups)
    assert interval.mean == balanced_accuracy(truth, predicted)
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


def test_groups_are_drawn_whole_so_copies_add_no_certainty() -> None:
    values = np.random.default_rng(8).normal(size=40)
    single = bootstrap_mean(values)
    copies = bootstrap_mean(np.repeat(values, 25), groups=np.repeat([f"lesion {i:02}" for i in range(40)], 25))
    naive = bootstrap_mean(np.repeat(values, 25))
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))
    assert naive.high - naive.low < 0.3 * (copies.high - copies.low)


def test_groups_of_unlike_sizes_by_hand() -> None:
    # groups {0, 0, 0} and {1}: resamples give 0, 1/4 or 1
    interval = bootstrap_mean([0.0, 0.0, 0.0, 1.0], groups=[5, 5, 5, 2])
    assert interval == Interval(0.25, 0.0, 1.0)


def test_pairing_removes_what_both_have_in_common() -> None:
    rng = np.random.default_rng(9)
    difficulty = rng.normal(0, 5, 200)
    before, after = difficulty + rng.normal(0, 0.1, 200), difficulty + 0.1 + rng.normal(0, 0.1, 200)
    interval = paired_difference(after, before)
    assert interval.mean == pytest.approx((after - before).mean())
    assert 0 < interval.low < 0.1 < interval.high < 0.2
    assert paired_difference(before, after).mean == pytest.approx(-interval.mean)


def test_a_statistic_of_ones_own_sees_all_columns_resampled_together() -> None:
    def gain(truth: NDArray[np.str_], a: NDArray[np.str_], b: NDArray[np.str_], weights: NDArray[np.float64]) -> object:
        return accuracy(truth, b, weights) - accuracy(truth, a, weights)

    truth = ["x", "y"] * 20
    interval = bootstrap_statistic([truth, ["x"] * 40, truth], gain)
    assert interval.mean == 0.5
    assert 0.3 < interval.low < 0.5 < interval.high < 0.7


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    values = np.random.default_rng(10).random(20_000)
    tracemalloc.start()
    bootstrap_mean(values, resamples=500)  # 80 MB of weights if they were all there at once
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 75e6


def test_the_chunks_add_up_to_the_resamples_asked_for() -> None:
    rows = []

    def count(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rows.append(len(weights))
        assert (weights.sum(axis=1) == len(values)).all()
        return weights @ values

    bootstrap_statistic([np.ones(30_000)], count, resamples=150)
    assert len(rows) > 2
    assert sum(rows) == 150 + 1  # and the sample itself


def test_empty_unequal_and_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one n above 0"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="one n above 0"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="one n above 0"):
        accuracy(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="one n above 0"):
        bootstrap_mean([1.0, 2.0], groups=[1])
    with pytest.raises(ValueError, match="one n above 0"):
        bootstrap_statistic([], accuracy)
    with pytest.raises(ValueError, match="value is not finite: index 1"):
        bootstrap_mean([1.0, math.nan])
    for bad in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}):
        with pytest.raises(ValueError, match="level"):
            bootstrap_mean([1.0], **bad)
