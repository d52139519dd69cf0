"""When to stop: bounds against every way on, and how probable a lead is."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermo_ray.cct import Question, Rollout, aggregate
from dermo_ray.cct.stopping import enough, lead_probability, round_sizes, settled
from dermo_ray.config.cct import CCTConfig
from dermo_ray.morphology import Morphology

OPTIONS = Question(lambda sample: None, answers="ABCD")
CERTAIN = CCTConfig(stop="certain")


def near(first: str, second: str) -> float:
    """A made-up tree: labels with the same first letter are near, `odd` is in no tree."""
    if first == second:
        return 1.0
    return 0.0 if "odd" in (first, second) else 0.75 if first[0] == second[0] else 0.25


LABELS = ("na", "nb", "ma", "mb")
DIAGNOSES = Question(lambda sample: None, near, LABELS, morphology=True)


def test_five_sure_votes_of_eight_settle_it_and_four_do_not() -> None:
    # four: 4 * 3/7 for the leader, 4 * 3/7 for whoever gets all the rest. Five: 5 * 4/7 against 3 * 2/7
    assert not settled([Rollout("A", 1.0)] * 4, 4, CERTAIN, OPTIONS)
    assert settled([Rollout("A", 1.0)] * 5, 3, CERTAIN, OPTIONS)
    assert not settled([Rollout("A", 0.29)] * 5, 3, CERTAIN, OPTIONS)  # 5 * 4/7 * 0.29 < 3 * 2/7


def test_a_lead_in_a_plain_vote_is_settled_when_it_exceeds_what_is_left() -> None:
    vote = CCTConfig(stop="certain", alpha=0, beta=0)
    assert settled([Rollout("A", 0.1)] * 3 + [Rollout("B", 1.0)], 1, vote, OPTIONS)
    assert not settled([Rollout("A", 0.1)] * 3 + [Rollout("B", 1.0)], 2, vote, OPTIONS)


def test_soft_options_count_by_their_shares() -> None:
    sure = [Rollout("A", 0.9, option_probabilities={"A": 0.9, "B": 0.1})] * 6
    torn = [Rollout("A", 0.55, option_probabilities={"A": 0.55, "B": 0.45})] * 6
    assert settled(sure, 2, CERTAIN, OPTIONS)
    assert not settled(torn, 2, CERTAIN, OPTIONS)


def test_soft_votes_of_a_third_answer_may_still_decide_between_two_others() -> None:
    # forty answer C, yet lean to A by a hair before B: one more C that leans to B turns it
    seen = [Rollout("C", 0.25, option_probabilities={"A": 0.38, "B": 0.37, "C": 0.25})] * 40
    turning = Rollout("C", 0.5, option_probabilities={"B": 0.5, "C": 0.5})
    assert aggregate(seen, CERTAIN).answer == "A"
    assert aggregate([*seen, turning], CERTAIN).answer == "B"
    assert not settled(seen, 1, CERTAIN, OPTIONS)


def test_rollouts_that_agree_on_a_morphology_may_still_overtake_more_that_state_none() -> None:
    # 4 * 3/6 * 0.9 = 1.8 against 3 * (2/6 + 1) / 2 = 2
    seen = [Rollout("na", 0.9)] * 4
    rest = [Rollout("odd", 1.0, Morphology("skincon", features=frozenset({"Scale"})))] * 3
    assert aggregate([*seen, *rest], CERTAIN).answer == "odd"
    assert not settled(seen, 3, CERTAIN, Question(lambda sample: None, answers=("na", "odd"), morphology=True))
    assert settled(seen, 3, CERTAIN, Question(lambda sample: None, answers=("na", "odd")))


ALPHAS = st.sampled_from([0.0, 0.5, 1.0, 2.0])
CONFIDENCES = st.sampled_from([0.0, 0.3, 0.7, 1.0]) | st.floats(0, 1)


@st.composite
def soft_rollouts(draw: st.DrawFn) -> Rollout:
    masses = {option: draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for option in "ABCD"}
    answer = draw(st.sampled_from("AAAAABCD"))
    masses[answer] += draw(st.sampled_from([0.05, 1.0, 4.0]))
    return Rollout(answer, masses[answer] / sum(masses.values()), option_probabilities=masses)


def hard_rollouts(answers: Sequence[str]) -> st.SearchStrategy[Rollout]:
    return st.builds(Rollout, answer=st.sampled_from(answers), confidence=CONFIDENCES)


MORPHOLOGIES = st.none() | st.sets(st.sampled_from(["Papule", "Plaque", "Scale"])).map(
    lambda features: Morphology("skincon", features=frozenset(features))
)
OPTION_ROLLOUTS = hard_rollouts("AAAAABCD") | soft_rollouts()
DIAGNOSIS_ROLLOUTS = st.builds(
    Rollout,
    answer=st.sampled_from([*["na"] * 6, *LABELS, "odd"]),
    confidence=CONFIDENCES,
    morphology=MORPHOLOGIES,
)


@pytest.mark.parametrize(
    ("question", "rollouts"),
    [(OPTIONS, OPTION_ROLLOUTS), (DIAGNOSES, DIAGNOSIS_ROLLOUTS)],
    ids=["options", "diagnoses"],
)
def test_an_answer_that_is_settled_is_the_answer_of_all_rollouts(
    question: Question, rollouts: st.SearchStrategy[Rollout]
) -> None:
    stopped = 0

    @settings(max_examples=1500, deadline=None)  # of 400, as few as a dozen are settled
    @given(st.lists(rollouts, min_size=1, max_size=7), st.lists(st.none() | rollouts, max_size=5), ALPHAS, ALPHAS)
    def holds(seen: list[Rollout], rest: list[Rollout | None], alpha: float, beta: float) -> None:
        nonlocal stopped
        config = CCTConfig(stop="certain", alpha=alpha, beta=beta)
        everything = [*seen, *(rollout for rollout in rest if rollout is not None)]
        if rest and settled(seen, len(rest), config, question):
            stopped += 1
            early = aggregate(seen, config, similarity=question.similarity)
            assert aggregate(everything, config, similarity=question.similarity).answer == early.answer

    holds()
    assert stopped > 20


@settings(max_examples=300, deadline=None)
@given(st.lists(OPTION_ROLLOUTS, min_size=1, max_size=7), st.integers(1, 5), st.sampled_from("BCD"), ALPHAS, ALPHAS)
def test_a_settled_answer_survives_the_strongest_opposition(
    seen: list[Rollout], left: int, rival: str, alpha: float, beta: float
) -> None:
    config = CCTConfig(stop="certain", alpha=alpha, beta=beta)
    if settled(seen, left, config, OPTIONS):
        early = aggregate(seen, config).answer
        rival = "A" if early == rival else rival
        torn = {early: 0.25, rival: 0.75}
        for opposed in (Rollout(rival, 1.0), Rollout(early, 0.25, option_probabilities=torn)):
            assert aggregate([*seen, *[opposed] * left], config).answer == early


def test_a_lead_is_as_probable_as_the_beta_distribution_says() -> None:
    # P(p > 1/2) from a uniform prior: 1 - 1/2^(n + 1) after n equal answers; a tie is even
    vote = CCTConfig(alpha=0, beta=0)
    assert lead_probability([Rollout("A", 1.0)] * 4, vote, OPTIONS) == pytest.approx(1 - 1 / 32)
    assert lead_probability([Rollout("A", 1.0), Rollout("B", 1.0)], vote, OPTIONS) == pytest.approx(0.5)
    # three against one: Beta(4, 2) lies above 1/2 with probability 13/16
    assert lead_probability([Rollout("A", 1.0)] * 3 + [Rollout("B", 1.0)], vote, OPTIONS) == pytest.approx(13 / 16)


def test_a_dissenter_without_weight_still_speaks_against_a_sure_lead() -> None:
    # B has consistency 0 and no share of the posterior, but one vote of three
    rollouts = [Rollout("A", 1.0), Rollout("A", 1.0), Rollout("B", 1.0)]
    assert aggregate(rollouts, CCTConfig()).posterior == {"A": 1.0, "B": 0.0}
    assert lead_probability(rollouts, CCTConfig(), OPTIONS) == pytest.approx(11 / 16)


def test_soft_votes_count_by_their_shares_towards_a_lead() -> None:
    torn = Rollout("A", 0.5, option_probabilities={"A": 0.5, "B": 0.5})
    assert lead_probability([torn] * 4, CCTConfig(), OPTIONS) == pytest.approx(0.5)


@pytest.mark.parametrize(("stop", "sizes"), [("never", [8]), ("certain", [5, 2, 1]), ("probable", [3, 2, 2, 1])])
def test_the_first_round_is_the_smallest_that_can_be_enough(stop: str, sizes: list[int]) -> None:
    assert round_sizes(CCTConfig(stop=stop), 8) == sizes
    assert round_sizes(CCTConfig(stop=stop), 1) == [1]


def test_nothing_is_enough_before_an_answer_and_everything_at_the_end() -> None:
    for stop in ("never", "certain", "probable"):
        config = CCTConfig(stop=stop)
        assert not enough([], 3, config, OPTIONS)
        assert enough([], 0, config, OPTIONS)
        assert enough([Rollout("A", 0.1), Rollout("B", 0.1)], 0, config, OPTIONS)
        assert enough([Rollout("A", 1.0)] * 5, 3, config, OPTIONS) == (stop != "never")
