"""Splits and balancing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.config.prepare import SplitSettings
from dermo_ray.data.balance import copies
from dermo_ray.data.splits import split_of

SETTINGS = SplitSettings(val=0.1, test=0.2)


def test_splits_have_the_shares_asked_for():
    counts = Counter(split_of(f"lesion {i}", SETTINGS, seed=0) for i in range(20_000))
    assert abs(counts["val"] / 20_000 - 0.1) < 0.01
    assert abs(counts["test"] / 20_000 - 0.2) < 0.01


def test_a_group_keeps_its_split_and_another_seed_moves_some():
    groups = [f"lesion {i}" for i in range(500)]
    assert [split_of(g, SETTINGS, 0) for g in groups] == [split_of(g, SETTINGS, 0) for g in groups]
    assert [split_of(g, SETTINGS, 0) for g in groups] != [split_of(g, SETTINGS, 1) for g in groups]


def test_no_group_leaves_training_where_both_shares_are_zero():
    assert {split_of(str(i), SplitSettings(val=0, test=0), 0) for i in range(200)} == {"train"}


def test_a_rare_label_is_repeated_up_to_the_most_frequent_one():
    labels = {f"common {i}": "nevus" for i in range(10)} | {f"rare {i}": "melanoma" for i in range(4)}
    counts = copies(labels, max_repeat=10)
    assert sum(counts[f"rare {i}"] for i in range(4)) == 10
    assert {counts[f"rare {i}"] for i in range(4)} == {2, 3}
    assert all(counts[f"common {i}"] == 1 for i in range(10))


@given(st.dictionaries(st.text(max_size=4), st.sampled_from(["a", "b", "c", None]), max_size=40), st.integers(1, 5))
def test_balancing_never_drops_a_sample_nor_exceeds_the_bound(labels, max_repeat):
    counts = copies(labels, max_repeat)
    assert counts.keys() == labels.keys()
    assert all(1 <= count <= max_repeat for count in counts.values())
    assert all(counts[name] == 1 for name, label in labels.items() if label is None)
