"""Aggregation of rollouts, by hand."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.cct import Rollout, aggregate
from dermo_ray.config.cct import CCTConfig
from dermo_ray.morphology import Morphology

DEFAULT = CCTConfig()


def skincon(*features: str) -> Morphology:
    """A clinical morphology."""
    return Morphology("skincon", features=frozenset(features))


def test_weights_are_confidence_times_consistency() -> None:
    # A, A, B: consistency 1/2, 1/2, 0; weights 0.4, 0.3, 0
    result = aggregate([Rollout("A", 0.8), Rollout("A", 0.6), Rollout("B", 0.9)], DEFAULT)
    assert result.answer == "A"
    assert result.posterior == pytest.approx({"A": 1.0, "B": 0.0})
    # A A A B B: consistency 2/4 for A, 1/4 for B; weights A 3 * 0.5 * 0.5 = 0.75, B 2 * 0.9 * 0.25 = 0.45
    result = aggregate([Rollout("A", 0.5)] * 3 + [Rollout("B", 0.9)] * 2, DEFAULT)
    assert result.posterior == pytest.approx({"A": 0.625, "B": 0.375})
    assert result.answer == "A"
    assert result.confidence == result.posterior["A"]
    assert not result.abstain


def test_exponents_shape_the_weights() -> None:
    rollouts = [Rollout("A", 0.5)] * 3 + [Rollout("B", 0.9)] * 2
    majority = aggregate(rollouts, CCTConfig(alpha=0, beta=0))
    assert majority.posterior == pytest.approx({"A": 0.6, "B": 0.4})
    confident = aggregate(rollouts, CCTConfig(alpha=2, beta=0))  # 0.75 against 1.62
    assert confident.answer == "B"
    assert confident.confidence == pytest.approx(1.62 / 2.37)


def test_it_abstains_below_tau_and_not_at_it() -> None:
    rollouts = [Rollout("A", 1.0)] * 3 + [Rollout("B", 1.0)]
    votes = {"alpha": 0, "beta": 0}
    assert not aggregate(rollouts, CCTConfig(**votes, tau=0.75)).abstain
    assert aggregate(rollouts, CCTConfig(**votes, tau=0.76)).abstain


def test_morphology_agreement_is_averaged_into_the_consistency() -> None:
    # answers all equal: similarity 1. Morphology: the first two agree (1), the third with neither (0).
    # s = (1 + 0.5) / 2 twice and (1 + 0) / 2; soft options separate the weights: p(X) = 1, 1, 0
    certain = {"X": 1.0, "Y": 0.0}
    rollouts = [
        Rollout("X", 1.0, skincon("Papule"), certain),
        Rollout("X", 1.0, skincon("Papule"), certain),
        Rollout("X", 1.0, skincon("Ulcer"), {"X": 0.0, "Y": 1.0}),
    ]
    assert aggregate(rollouts, DEFAULT).posterior == pytest.approx({"X": 0.75, "Y": 0.25})


def test_a_rollout_without_morphology_is_judged_by_its_answer_alone() -> None:
    # s: A with morphology (1/2 + 1) / 2 each, B without: 0
    rollouts = [Rollout("A", 0.4, skincon("Papule")), Rollout("A", 0.4, skincon("Papule")), Rollout("B", 1.0)]
    assert aggregate(rollouts, DEFAULT).posterior == pytest.approx({"A": 1.0, "B": 0.0})
    # a lone morphology has none to be compared with: s = 1 for all
    rollouts = [Rollout("A", 0.4, skincon("Papule")), Rollout("A", 0.4)]
    assert aggregate(rollouts, DEFAULT).posterior == {"A": 1.0}


def test_option_probabilities_spread_the_weight_and_need_not_sum_to_one() -> None:
    rollouts = [
        Rollout("A", 0.5, option_probabilities={"A": 0.3, "B": 0.2}),  # 0.6, 0.4
        Rollout("A", 0.5, option_probabilities={"A": 1.0, "B": 0.0}),
    ]
    assert aggregate(rollouts, DEFAULT).posterior == pytest.approx({"A": 0.8, "B": 0.2})


def test_soft_options_may_lead_to_an_answer_no_rollout_chose() -> None:
    rollouts = [
        Rollout("A", 0.5, option_probabilities={"A": 0.5, "B": 0.0, "C": 0.5}),
        Rollout("B", 0.5, option_probabilities={"A": 0.0, "B": 0.5, "C": 0.5}),
    ]
    result = aggregate(rollouts, CCTConfig(beta=0))
    assert (result.answer, result.confidence) == ("C", 0.5)


def test_a_given_similarity_decides_how_near_answers_are() -> None:
    # near answers help each other: s = 0.5 * (0.8 + 0) for the two nevi, 0 for the third
    def similarity(first: str, second: str) -> float:
        return 1.0 if first == second else 0.8 * (first[0] == second[0])

    rollouts = [Rollout("nevus", 0.6), Rollout("naevus", 0.3), Rollout("psoriasis", 1.0)]
    result = aggregate(rollouts, DEFAULT, similarity=similarity)
    assert result.posterior == pytest.approx({"nevus": 2 / 3, "naevus": 1 / 3, "psoriasis": 0.0})
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        aggregate(rollouts, DEFAULT, similarity=lambda a, b: -0.5)


def test_one_rollout_is_its_own_answer() -> None:
    result = aggregate([Rollout("A", 0.2)], DEFAULT)
    assert (result.answer, result.confidence, result.posterior, result.abstain) == ("A", 1.0, {"A": 1.0}, False)


@pytest.mark.parametrize("confidences", [(0.0, 0.0, 0.0), (0.9, 0.2, 0.2)])
def test_without_any_weight_every_rollout_counts_alike_and_it_abstains(confidences: tuple[float, ...]) -> None:
    # all confidences 0; or three answers that all disagree, so that every consistency is 0
    answers = "AAB" if not any(confidences) else "CBA"
    rollouts = [Rollout(a, c) for a, c in zip(answers, confidences, strict=True)]
    result = aggregate(rollouts, CCTConfig(tau=0.1))
    assert result.answer == ("A" if not any(confidences) else "C")
    assert math.fsum(result.posterior.values()) == pytest.approx(1)
    assert result.abstain
    assert not aggregate(rollouts, CCTConfig(tau=0)).abstain


def test_a_confidence_of_zero_adds_nothing_to_its_answer() -> None:
    result = aggregate([Rollout("A", 0.0), Rollout("A", 0.0), Rollout("B", 0.1), Rollout("B", 0.1)], DEFAULT)
    assert result.posterior == {"B": 1.0, "A": 0.0}


def test_ties_go_to_votes_then_confidence_then_the_alphabet() -> None:
    soft = {"A": 0.5, "B": 0.5}
    votes = [Rollout("B", 0.5, option_probabilities=soft), Rollout("B", 0.5, option_probabilities=soft)]
    assert aggregate(votes, DEFAULT).answer == "B"
    flat = CCTConfig(alpha=0, beta=0)
    assert aggregate([Rollout("A", 0.2), Rollout("B", 0.7)], flat).answer == "B"
    assert aggregate([Rollout("B", 0.5), Rollout("A", 0.5)], flat).answer == "A"


def test_mappings_stand_for_rollouts() -> None:
    mapping = {
        "answer": "A",
        "confidence": 0.5,
        "morphology": {"morphological_features_skincon": ["Papule"]},
        "view": "flip",
    }
    assert aggregate([mapping, Rollout("A", 0.5, skincon("papule"))], DEFAULT).answer == "A"
    with pytest.raises(TypeError, match="answr"):
        aggregate([{"answr": "A", "confidence": 1.0}], DEFAULT)


def test_no_rollouts_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one rollout"):
        aggregate([], DEFAULT)
    for confidence in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="confidence"):
            Rollout("A", confidence)
    for options in ({"A": -1.0, "B": 2.0}, {"A": math.nan}, {"A": 0.0}, {}):
        with pytest.raises(ValueError, match="option probabilities"):
            Rollout("A", 0.5, option_probabilities=options)


ROLLOUTS = st.lists(
    st.builds(
        Rollout,
        answer=st.sampled_from("ABCD"),
        confidence=st.floats(0, 1),
        option_probabilities=st.none() | st.fixed_dictionaries({"A": st.floats(0.1, 1), "B": st.floats(0, 1)}),
    ),
    min_size=1,
    max_size=9,
)


@given(ROLLOUTS, st.floats(0, 3), st.floats(0, 3), st.randoms(use_true_random=False))
def test_the_posterior_is_a_distribution_and_order_does_not_matter(
    rollouts: list[Rollout], alpha: float, beta: float, rng: random.Random
) -> None:
    config = CCTConfig(alpha=alpha, beta=beta)
    result = aggregate(rollouts, config)
    assert math.fsum(result.posterior.values()) == pytest.approx(1)
    assert all(0 <= value <= 1 for value in result.posterior.values())
    assert next(iter(result.posterior)) == result.answer
    assert result.confidence == result.posterior[result.answer]
    assert max(result.posterior.values()) == pytest.approx(result.confidence)
    shuffled = list(rollouts)
    rng.shuffle(shuffled)
    assert aggregate(shuffled, config) == result
