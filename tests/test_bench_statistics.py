"""Paired comparison, tables and fairness: by hand, and against resampling done the plain way."""

import time
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.bench.breakdown import by_class, by_group, macro_average
from dermo_ray.bench.calibration import calibration
from dermo_ray.bench.fairness import fairness
from dermo_ray.bench.paired import compare, mcnemar
from dermo_ray.bench.selective import selective
from dermo_ray.bench.statistics import Interval, bootstrap_mean, bootstrap_statistic, bootstrap_statistics, macro_mean


def test_several_statistics_of_the_same_resamples_are_those_of_each_alone() -> None:
    values = np.random.default_rng(0).normal(size=70)

    def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ values / weights.sum(axis=1)

    def both(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.stack([mean(values, weights), mean(values**2, weights)], axis=1)

    first, second = bootstrap_statistics([values], both)
    assert first == bootstrap_statistic([values], mean)
    assert second == bootstrap_statistic([values**2], mean)


def test_a_mean_of_few_values_is_resampled_like_any_other() -> None:
    values = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 400, p=[0.5, 0.2, 0.3])
    quick = bootstrap_mean(values, resamples=4000)
    item_by_item = bootstrap_mean(values, groups=np.arange(400), resamples=4000)
    assert quick.mean == pytest.approx(item_by_item.mean)
    assert quick.low == pytest.approx(item_by_item.low, abs=0.006)
    assert quick.high == pytest.approx(item_by_item.high, abs=0.006)


@pytest.mark.parametrize("distinct", [2, 400])
def test_means_of_classes_over_groups_agree_with_weights_of_items(distinct: int) -> None:
    """Few kinds of groups are drawn by how often each occurs, many one by one."""
    random = np.random.default_rng(2)
    names, groups = random.choice(["a", "b", "c"], 600, p=[0.6, 0.3, 0.1]), random.integers(200, size=600)
    values = random.integers(distinct, size=600) / distinct
    quick = macro_average(values, names, groups=groups, resamples=4000)
    codes = np.unique(names, return_inverse=True)[1]
    plain = bootstrap_statistic([values, codes], macro_mean, groups=groups, resamples=4000, seed=7)
    assert quick.mean == pytest.approx(plain.mean)
    assert (quick.low, quick.high) == pytest.approx((plain.low, plain.high), abs=0.006)


def test_a_macro_mean_counts_classes_alike() -> None:
    # a: 1/4, b: 1, c: 1/2
    names = ["a", "b", "a", "a", "c", "a", "c"]
    values = [1, 1, 0, 0, 1, 0, 0]
    assert macro_mean(values, names) == pytest.approx((1 / 4 + 1 + 1 / 2) / 3)
    assert macro_mean(values, names, np.array([[0, 1.0, 2, 0, 0, 2, 0]])).tolist() == [0.5]  # c isn't drawn, a is at 0
    interval = macro_average(values, names)
    assert interval.mean == pytest.approx(7 / 12)
    assert interval.low < 7 / 12 < interval.high


def p_by_enumeration(only_before: int, only_after: int) -> float:
    """The share of all ways to split the discordant items that are no more likely than this one."""
    n = only_before + only_after
    ways = [comb(n, k) for k in range(n + 1)]
    return sum(way for way in ways if way <= ways[only_after]) / 2**n


@given(st.integers(0, 25), st.integers(0, 25))
def test_mcnemar_is_the_exact_test_of_discordant_items(only_before: int, only_after: int) -> None:
    assert mcnemar(only_before, only_after).p_value == pytest.approx(p_by_enumeration(only_before, only_after))


def test_mcnemar_by_hand() -> None:
    # 1 against 9: 2 * (1 + 10) / 1024
    assert mcnemar(1, 9).p_value == pytest.approx(22 / 1024)
    assert mcnemar(0, 0).p_value == 1


def test_two_models_are_compared_item_by_item() -> None:
    before = [True] * 50 + [False] * 50
    after = [True] * 49 + [False] + [True] * 9 + [False] * 41
    found = compare(before, after)
    assert (found.items, found.before.mean, found.after.mean) == (100, 0.5, 0.58)
    assert found.difference.mean == pytest.approx(0.08)
    assert 0 < found.difference.low < 0.08 < found.difference.high < 0.16
    assert found.mcnemar == mcnemar(1, 9)


def test_scores_have_a_difference_but_no_mcnemar() -> None:
    found = compare([80.0, 20.0, 55.0], [90.0, 30.0, 65.0])
    assert found.mcnemar is None
    assert found.difference == Interval(10, 10, 10)
    with pytest.raises(ValueError, match="one n above 0"):
        compare([True], [True, False])


def test_items_of_one_group_are_compared_together() -> None:
    rng = np.random.default_rng(2)
    gain = np.repeat(rng.integers(-1, 2, 30), 10)
    before, after = np.zeros(300), gain.astype(float)
    alone = compare(before, after).difference
    together = compare(before, after, groups=np.repeat(np.arange(30), 10)).difference
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_a_table_has_every_group_with_its_size_and_no_unknown_one() -> None:
    table = by_group([1, 0, 1, 1, 0], ["56", None, "12", "56", "56"])
    assert list(table) == ["12", "56"]
    assert (table["12"].items, table["12"].mean.mean) == (1, 1)
    assert (table["56"].items, table["56"].mean.mean) == (3, pytest.approx(2 / 3))
    assert by_group([1.0], [None]) == {}


def test_classes_have_recall_precision_and_f1() -> None:
    truth = ["nevus", "nevus", "nevus", "melanoma", "melanoma", "eczema"]
    predicted = ["nevus", "nevus", "melanoma", "melanoma", None, "psoriasis"]
    table = by_class(truth, predicted)
    assert list(table) == ["eczema", "melanoma", "nevus", "psoriasis"]
    means = {
        label: (
            row.items,
            row.predicted,
            row.recall and row.recall.mean,
            row.precision and row.precision.mean,
            row.f1.mean,
        )
        for label, row in table.items()
    }
    assert means == {
        "eczema": (1, 0, 0.0, None, 0.0),
        "melanoma": (2, 2, 0.5, 0.5, 0.5),
        "nevus": (3, 2, pytest.approx(2 / 3), 1.0, pytest.approx(0.8)),
        "psoriasis": (0, 1, None, 0.0, 0.0),
    }


def test_fairness_is_the_worst_group_over_the_best() -> None:
    # 12: 3/4, 34: 2/4, 56: 1/2
    right = [1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1]
    tones = ["12"] * 4 + ["34"] * 4 + ["56"] * 2 + [None]
    found = fairness(right, tones)
    assert found.score is not None
    assert found.score.mean == pytest.approx((1 / 2) / (3 / 4))
    assert found.score.mean == pytest.approx(1 - (3 / 4 - 1 / 2) / (3 / 4))  # as DermoBench writes it
    assert {tone: group.items for tone, group in found.groups.items()} == {"12": 4, "34": 4, "56": 2}
    assert found.unknown == 1


@pytest.mark.parametrize("tones", [["unknown"] * 4, [None] * 4, [None, None, "12", "12"]])
def test_less_than_two_groups_have_no_fairness(tones: list[str | None]) -> None:
    assert fairness([1, 0, 1, 1], tones).score is None


def test_nothing_right_is_not_fair() -> None:
    assert fairness([0, 0, 0], ["12", "12", "56"]).score == Interval(0, 0, 0)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_fairness_agrees_with_resampled_copies(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    tones = np.repeat(["12", "34", "56"], [200, 240, 200])
    right = rng.random(640) < np.repeat([0.8, 0.7, 0.55], [200, 240, 200])
    patients = np.arange(640) // 4 if grouped else np.arange(640)
    found = fairness(right, tones.tolist(), groups=patients if grouped else None, resamples=3000).score
    assert found is not None

    answers_of = {patient: right[patients == patient] for patient in np.unique(patients)}
    people = [np.unique(patients[tones == tone]) for tone in ("12", "34", "56")]
    scores = []
    for _ in range(1500):
        accuracies = [np.concatenate([answers_of[p] for p in rng.choice(who, len(who))]).mean() for who in people]
        scores.append(min(accuracies) / max(accuracies))
    low, high = np.quantile(scores, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.015)
    assert found.high == pytest.approx(high, abs=0.015)


@pytest.mark.slow
def test_the_whole_benchmark_is_measured_within_seconds() -> None:
    rng = np.random.default_rng(4)
    items = 33_999
    confidence = rng.random(items)
    before, after = rng.random((2, items)) < confidence
    names = rng.choice(list("abcdefghijklmnopqrstuvwxy"), items).tolist()
    start = time.process_time()
    compare(before, after)
    by_class(names, np.where(before, names, "a").tolist())
    by_group(before, names)
    macro_average(before, names)
    calibration(confidence, before)
    selective(confidence, before)
    assert time.process_time() - start < 30
