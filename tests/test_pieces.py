"""From scored groups to passes: who takes what of a batch, and what a pass holds."""

import random
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from learner_cases import training_group

from actors.messages import Sampled, TrainingGroup
from actors.pieces import assemble, deal, strands_of, tokens
from dermo_ray.models.batches import PromptImages, places_in_branches


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


def groups_and_images() -> tuple[list[TrainingGroup], list[PromptImages]]:
    cut = Sampled([5, 6, 7], [-0.1, -0.2, -0.3], "", "length")
    whole = Sampled([8, 9], [-0.4, -0.5], "", "stop")
    groups = [training_group(4, [1, 2], [whole, cut], [-0.5, 0.5]), training_group(7, [3], [whole, whole], [1.0, -1.0])]
    return groups, [PromptImages({"pixel_values": torch.full((size, 2), size)}, 1) for size in (1, 2)]


def test_a_piece_holds_the_sampled_ids_and_what_the_engine_reported_of_them() -> None:
    groups, images = groups_and_images()
    strands = strands_of(groups, 100, share=False, mask_truncated=True)
    assert [len(strand) for strand in strands] == [5, 4, 3, 3]
    made = assemble([strands[2], strands[0], strands[1]], images, pad_id=0)
    assert made.batch.branches is None
    assert made.batch.input_ids.tolist() == [[3, 8, 9, 0, 0], [1, 2, 5, 6, 7], [1, 2, 8, 9, 0]]
    assert made.batch.trained.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 0]]
    assert made.mask.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert torch.allclose(made.rollout_logprobs, torch.tensor([[-0.4, -0.5, 0], [0, 0, 0], [-0.4, -0.5, 0]]))
    assert made.advantages.tolist() == [1.0, 0.5, -0.5]
    assert made.completions == [(7, 0), (4, 1), (4, 0)]
    assert made.batch.image_index.tolist() == [1, 0, 0]
    assert made.batch.images["pixel_values"].tolist() == [[1, 1], [2, 2], [2, 2]]
    assert made.spread(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 0]]
    assert not made.untrained.batch.trained.any()
    assert not made.untrained.mask.any()


def test_completions_share_their_prompt_as_far_as_the_budget_goes() -> None:
    groups, images = groups_and_images()
    strands = strands_of(groups, 7, share=True, mask_truncated=False)
    assert [[sample.name for sample in strand.samples] for strand in strands] == [[(4, 1), (4, 0)], [(7, 0), (7, 1)]]
    made = assemble(strands, images, pad_id=0)
    assert made.batch.input_ids.tolist() == [[1, 2, 5, 6, 7, 8, 9], [3, 8, 9, 8, 9, 0, 0]]
    assert made.batch.branches is not None
    assert made.batch.branches.tolist() == [[0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 2, 2, -1, -1]]
    assert places_in_branches(made.batch.branches).tolist() == [[0, 1, 0, 1, 2, 0, 1], [0, 0, 1, 0, 1, 0, 1]]
    assert made.mask.sum() == made.batch.trained.sum() == 9
    assert len(strands_of(groups, 6, share=True, mask_truncated=False)) == 3
    assert len(strands_of(groups, 1, share=True, mask_truncated=False)) == 4


@given(batches, st.integers(1, 300), st.booleans())
def test_every_completion_is_in_one_strand_within_the_budget(
    groups: list[TrainingGroup], budget: int, share: bool
) -> None:
    strands = strands_of(groups, budget, share=share, mask_truncated=False)
    names = [sample.name for strand in strands for sample in strand.samples]
    assert len(names) == len(set(names)) == sum(len(training.advantages) for training in groups)
    for strand in strands:
        assert len(strand.samples) == 1 or (share and len(strand) <= budget)
        assert {sample.name[0] for sample in strand.samples} == {groups[strand.position].scored.group.prompt.index}
