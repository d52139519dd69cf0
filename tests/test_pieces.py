"""From scored groups to passes: who takes what of a batch, and what a pass holds."""

import random
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from learner_cases import training_group

from actors.messages import Sampled, TrainingGroup
from actors.pieces import assemble, deal, rows_of, tokens
from dermo_ray.models.batches import PromptImages


def of_lengths(index: int, prompt: int, lengths: Sequence[int]) -> TrainingGroup:
    completions = [Sampled([1] * length, [-1.0] * length, "", "stop") for length in lengths]
    return training_group(index, [2] * prompt, completions, [0.0] * len(lengths))


batches = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 40), min_size=2, max_size=5)), min_size=1, max_size=20
).map(lambda shapes: [of_lengths(index, *shape) for index, shape in enumerate(shapes)])


def indices(groups: Sequence[TrainingGroup]) -> list[int]:
    return [training.scored.group.prompt.index for training in groups]


@given(batches, st.integers(1, 6), st.randoms())
def test_every_group_is_dealt_to_one_rank_and_the_loads_are_level(
    groups: list[TrainingGroup], ranks: int, rng: random.Random
) -> None:
    shares = deal(groups, ranks)
    assert sorted(index for share in shares for index in indices(share)) == list(range(len(groups)))
    loads = [sum(map(tokens, share)) for share in shares]
    assert max(loads) - min(loads) <= max(map(tokens, groups))
    shuffled = list(groups)
    rng.shuffle(shuffled)
    assert [indices(share) for share in deal(shuffled, ranks)] == [indices(share) for share in shares]


def test_a_piece_holds_the_sampled_ids_and_what_the_engine_reported_of_them() -> None:
    cut = Sampled([5, 6, 7], [-0.1, -0.2, -0.3], "", "length")
    whole = Sampled([8, 9], [-0.4, -0.5], "", "stop")
    groups = [training_group(4, [1, 2], [cut, whole], [0.5, -0.5]), training_group(7, [3], [whole, whole], [1.0, -1.0])]
    images = [PromptImages({"pixel_values": torch.full((size, 2), size)}, 1) for size in (1, 2)]
    rows = rows_of(groups, mask_truncated=True)
    made = assemble([rows[2], rows[0], rows[1]], images, pad_id=0)
    assert made.batch.input_ids.tolist() == [[3, 8, 9, 0, 0], [1, 2, 5, 6, 7], [1, 2, 8, 9, 0]]
    assert made.batch.trained.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]
    assert torch.allclose(made.rollout_logprobs, torch.tensor([[0, -0.4, -0.5, 0, 0], [0] * 5, [0, 0, -0.4, -0.5, 0]]))
    assert made.advantages.tolist() == [1.0, 0.5, -0.5]
    assert made.completions == [(7, 0), (4, 0), (4, 1)]
    assert made.batch.image_index.tolist() == [1, 0, 0]
    assert made.batch.images["pixel_values"].tolist() == [[1, 1], [2, 2], [2, 2]]
    assert not made.untrained.batch.trained.any()
