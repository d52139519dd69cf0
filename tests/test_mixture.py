"""Batches of conversations in set proportions of their formats."""

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.config.base import load
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.conversations import batch_indices
from dermo_ray.data.mixture import BatchOrder
from dermo_ray.errors import UserError
from dermo_ray.records import Format

NAMES = ["choice", "description", "hierarchy"]
FORMATS = np.repeat([0, 1, 2], [30, 50, 7])


@given(
    st.permutations(NAMES), st.lists(st.floats(0.2, 5), min_size=1, max_size=3), st.integers(1, 33), st.integers(0, 3)
)
def test_formats_come_in_their_proportions_each_in_epochs_of_its_own(
    names: list[str], weights: list[float], batch_size: int, seed: int
) -> None:
    mixture = dict(zip(names, weights, strict=False))
    order = BatchOrder(NAMES, FORMATS, batch_size, seed, mixture)
    shown = [index for step in range(20) for index in order(step)]
    counts = Counter(NAMES[FORMATS[index]] for index in shown)
    assert counts.keys() <= mixture.keys()
    for name, weight in mixture.items():
        share = weight / sum(weights)
        assert abs(counts[name] - share * len(shown)) <= 4
        of_format = [index for index in shown if NAMES[FORMATS[index]] == name]
        size = int(np.count_nonzero(NAMES.index(name) == FORMATS))
        for start in range(0, len(of_format) - size + 1, size):
            assert len(set(of_format[start : start + size])) == size


def test_without_a_mixture_conversations_come_as_they_are() -> None:
    order = BatchOrder(NAMES, FORMATS, 11, seed=3, mixture={})
    for step in (0, 7, 12):
        assert order(step) == batch_indices(len(FORMATS), 11, 3, step)


def test_a_batch_depends_on_its_step_alone() -> None:
    mixture = {"choice": 1.0, "hierarchy": 3.0}
    straight = BatchOrder(NAMES, FORMATS, 8, seed=0, mixture=mixture)
    batches = [straight(step) for step in range(9)]
    assert BatchOrder(NAMES, FORMATS, 8, seed=0, mixture=mixture)(8) == batches[8]
    assert BatchOrder(NAMES, FORMATS, 8, seed=1, mixture=mixture)(8) != batches[8]


def test_a_format_that_no_conversation_has_is_named() -> None:
    with pytest.raises(
        UserError, match="no conversation has the format reasoning; there are choice, description, hierarchy"
    ):
        BatchOrder(NAMES, FORMATS, 8, seed=0, mixture={"choice": 1, "reasoning": 1})


def test_the_papers_recipe_has_its_five_formats_in_equal_shares() -> None:
    mixture = load(SftConfig, Path("configs/cluster/sft-qwen3vl-8b.yaml")).mixture
    families = [
        {"description"},
        {"morph_description"},
        {"reasoning", "morph_reasoning"},
        {"diagnosis_choice_4", "diagnosis_choice_25", "attribute_choice"},
        {"hierarchy"},
    ]
    assert [sum(mixture[name] for name in family) for family in families] == [1.0] * 5
    assert set(get_args(Format)) - mixture.keys() == {"diagnosis"}
