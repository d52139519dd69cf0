"""Splits and balancing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.config.prepare import SplitSettings
from dermo_ray.data.balance import copies
from dermo_ray.data.duplicates import components
from dermo_ray.data.splits import assign, label_shares, largest_deviation, split_keys, split_of

SETTINGS = SplitSettings(val=0.1, test=0.2)

IMAGES = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([None, "a", "b", "c", "d", "e", "f"]), st.booleans()), max_size=16
)
"""Images in order of rank: what they show, lesion, whether a benchmark's."""


def keys_of(images: list[tuple[int, str | None, bool]]) -> list[str]:
    hashes = np.array([shown for shown, _, _ in images], np.uint64)
    groups = [group for _, group, _ in images]
    contents = [f"file {place}" for place in range(len(images))]
    return split_keys(components(hashes, 0), groups, contents, np.array([image[2] for image in images], bool))


def test_splits_have_the_shares_asked_for():
    counts = Counter(split_of(f"lesion {i}", SETTINGS, seed=0) for i in range(20_000))
    assert abs(counts["val"] / 20_000 - 0.1) < 0.01
    assert abs(counts["test"] / 20_000 - 0.2) < 0.01


def test_a_key_keeps_its_split_and_another_seed_moves_some():
    keys = [f"lesion {i}" for i in range(500)]
    assert [split_of(key, SETTINGS, 0) for key in keys] == [split_of(key, SETTINGS, 0) for key in keys]
    assert [split_of(key, SETTINGS, 0) for key in keys] != [split_of(key, SETTINGS, 1) for key in keys]


def test_nothing_leaves_training_where_both_shares_are_zero():
    assert {split_of(str(i), SplitSettings(val=0, test=0), 0) for i in range(200)} == {"train"}


def test_the_key_is_the_lesion_or_where_it_is_unknown_the_content_of_the_first_such_picture():
    assert keys_of([(0, "a", False), (1, None, False), (1, None, False), (2, None, False)]) == [
        "a",
        "file 1",
        "file 1",
        "file 3",
    ]


def test_lesions_that_share_a_picture_share_the_key_of_the_first():
    images = [(0, "a", False), (1, "a", False), (1, "b", False), (2, "b", False), (2, None, False), (3, "c", False)]
    assert keys_of(images) == ["a", "a", "a", "a", "a", "c"]


def test_lesions_that_are_linked_by_a_benchmark_alone_share_a_key_that_is_not_the_benchmarks():
    images = [(1, "benchmark", True), (0, "a", False), (1, "a", False), (1, "b", False), (2, "b", False)]
    assert keys_of(images) == ["a"] * 5


@given(IMAGES)
def test_one_lesion_or_picture_never_has_two_keys(images):
    keys = keys_of(images)
    for place in (0, 1):
        by_value: dict[object, set[str]] = {}
        for image, key in zip(images, keys, strict=True):
            by_value.setdefault(image[place], set()).add(key)
        assert all(len(found) == 1 for value, found in by_value.items() if value is not None)


@given(IMAGES, IMAGES)
def test_appended_sources_move_no_image_unless_they_link_what_was_apart(images, appended):
    before, after = keys_of(images), keys_of(images + appended)[: len(images)]
    training = [place for place, image in enumerate(images) if not image[2]]
    first_before: dict[str, str] = {}
    for place in training:
        first_before.setdefault(after[place], before[place])
    assert [after[place] for place in training] == [first_before[after[place]] for place in training]


def test_a_picture_that_links_two_lesions_moves_the_later_one():
    lesions = [(0, "a", False), (1, "b", False), (2, "c", False)]
    assert keys_of(lesions) == ["a", "b", "c"]
    assert keys_of([*lesions, (1, "new", False), (2, "new", False)]) == ["a", "b", "b", "b", "b"]


def test_a_benchmark_image_is_in_no_split():
    splits = assign(["x", "y", "x"], np.array([False, False, True]), SETTINGS, seed=0)
    assert splits == [split_of("x", SETTINGS, 0), split_of("y", SETTINGS, 0), "benchmark"]


def test_label_shares_are_those_of_each_split_and_the_largest_deviation_is_named():
    labels = ["nevus"] * 6 + ["melanoma"] * 3 + [None] + ["nevus"] * 5
    splits = ["train"] * 4 + ["val"] * 2 + ["train"] * 2 + ["val"] * 2 + ["benchmark"] * 5
    rows = label_shares(labels, splits)
    assert [(row["label"], row["images"], row["train"], row["val"], row["test"]) for row in rows] == [
        ("nevus", 6, 4, 2, 0),
        ("melanoma", 3, 2, 1, 0),
        ("none", 1, 0, 1, 0),
    ]
    nevus = rows[0]
    assert (nevus["train_share"], nevus["val_share"], nevus["test_share"]) == (4 / 6, 0.5, None)
    assert nevus["deviation"] == pytest.approx(0.5 - 0.6)
    assert nevus["deviation_in"] == "val"
    worst = largest_deviation(rows)
    assert worst is not None
    assert (worst["label"], worst["deviation"], worst["deviation_in"]) == ("none", pytest.approx(0.25 - 0.1), "val")
    assert largest_deviation(label_shares([], [])) is None


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
