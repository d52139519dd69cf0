"""What becomes of scored groups: rewards as advantages see them, metrics, rows of the record."""

from typing import Any

import pytest
from fake_pools import TRUTH, record, reward, sampled, scored

from actors.batch import completion_rows, describe, dropped_rows, shaped_rewards, teaches_nothing, with_advantages
from actors.messages import Group, Prompt, Sampled, ScoredGroup, TrainingGroup
from dermo_ray.config.algorithm import AlgorithmSettings


def test_advantages_are_relative_to_a_group_and_stay_with_their_completions() -> None:
    batch = [scored(0, [0.0, 1.0, 2.0]), scored(1, [5.0, 5.0])]
    first, second = with_advantages(batch, AlgorithmSettings(estimator="dr_grpo"), max_tokens=9)
    assert first.advantages == pytest.approx([-1.0, 0.0, 1.0])
    assert second.advantages == pytest.approx([0.0, 0.0])
    assert (first.scored, second.scored) == (batch[0], batch[1])


def test_the_divergence_is_taken_off_the_rewards() -> None:
    algorithm = AlgorithmSettings(estimator="dr_grpo", kl_coefficient=0.5, kl_place="reward")
    batch = [scored(0, [1.0, 1.0]), scored(1, [2.0, 0.0])]
    first, second = with_advantages(batch, algorithm, 9, divergences=[0.0, 2.0, 4.0, 0.0])
    assert first.advantages == pytest.approx([0.5, -0.5])
    assert second.advantages == pytest.approx([0.0, 0.0])


def of_lengths(*lengths: int, limit: int = 10, total: float = 1.0) -> ScoredGroup:
    """A group whose completions all earn `total`; those of `limit` tokens were cut."""
    completions = [sampled(length, "length" if length == limit else "stop") for length in lengths]
    return ScoredGroup(Group(Prompt(0, record(0)), 0, [7], completions), [reward(total) for _ in completions])


def test_the_overlong_penalty_is_taken_off_the_rewards() -> None:
    algorithm = AlgorithmSettings(truncated="penalise", overlong_penalty=0.5, overlong_share=0.4)
    assert shaped_rewards(of_lengths(3, 6, 8, 10), algorithm, max_tokens=10) == pytest.approx([1.0, 1.0, 0.75, 0.5])
    assert shaped_rewards(of_lengths(3, 10), AlgorithmSettings(), max_tokens=10) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("lengths", "algorithm", "nothing"),
    [
        ((3, 4), {}, True),
        ((3, 10), {}, True),
        ((3, 10), {"truncated": "penalise", "overlong_penalty": 0.5}, False),
        ((10, 10), {"truncated": "penalise", "overlong_penalty": 0.5}, True),
        ((3, 9), {"truncated": "penalise", "overlong_penalty": 0.5, "overlong_share": 0.2}, False),
    ],
)
def test_a_group_teaches_nothing_where_its_rewards_are_equal(
    lengths: tuple[int, ...], algorithm: dict[str, Any], nothing: bool
) -> None:
    assert teaches_nothing(of_lengths(*lengths), AlgorithmSettings(**algorithm), max_tokens=10) == nothing


def test_a_group_whose_completions_are_all_masked_teaches_nothing() -> None:
    cut = of_lengths(10, 10)
    differing = ScoredGroup(cut.group, [reward(0.0), reward(1.0)])
    assert teaches_nothing(differing, AlgorithmSettings(truncated="mask"), max_tokens=10)
    assert not teaches_nothing(differing, AlgorithmSettings(), max_tokens=10)


def test_a_batch_is_described_by_rewards_terms_faults_lengths_and_staleness() -> None:
    cut = Sampled([1] * 9, [-1.5] * 9, "text", "length")
    group = Group(Prompt(0, record(0)), 3, [7], [sampled(3), cut])
    valid, faulty = reward(1.0, format=1.0, diagnosis=1.0), reward(0.5, ("invalid_json", "empty_block"), format=0.25)
    same = scored(1, [0.5, 0.5], version=4)
    metrics = describe([ScoredGroup(group, [valid, faulty]), same], 4)
    expected = {
        "reward/total": 0.625,
        "reward/format": (1.0 + 0.25 + 0.5 + 0.5) / 4,
        "reward/diagnosis": 1.0,  # over the one completion to which it applies
        "reward_std_in_group": 0.125,
        "format_valid": 0.75,
        "faults/invalid_json": 0.25,
        "faults/empty_block": 0.25,
        "gate": 1.0,
        "entropy": (9 * 1.5 + 9 * 0.5) / 18,
        "tokens": 18.0,
        "completion_tokens": 4.5,
        "truncated": 0.25,
        "staleness/mean": 0.5,
        "staleness/max": 1.0,
    }
    assert metrics == pytest.approx(expected)


def test_a_row_says_what_was_sampled_for_which_step_and_why_it_was_rewarded() -> None:
    rows = completion_rows(TrainingGroup(scored(4, [0.0, 1.0], version=2), [-1.0, 1.0]), step=3)
    assert [(row.sample, row.reward, row.advantage) for row in rows] == [(0, 0.0, -1.0), (1, 1.0, 1.0)]
    assert {(row.step, row.version, row.policy, row.prompt_id) for row in rows} == {(3, 2, "mavic", "p004")}
    assert rows[1].terms == {"format": 1.0}
    assert (rows[0].tokens, rows[0].logprob, rows[0].truth) == (3, -0.5, TRUTH)


def test_a_group_that_was_dropped_has_rows_without_an_advantage() -> None:
    rows = dropped_rows(scored(4, [0.5, 0.5], version=2), step=3)
    assert [(row.step, row.sample, row.reward, row.advantage) for row in rows] == [(3, 0, 0.5, None), (3, 1, 0.5, None)]


def test_rewards_of_another_number_than_completions_are_refused() -> None:
    group = scored(0, [1.0, 0.0]).group
    with pytest.raises(ValueError, match="p000: 1 rewards for 2 completions"):
        ScoredGroup(group, [reward(1.0)])
