"""The watch sees a reward being gamed, and keeps quiet where it is not."""

import json
import math
import random
from collections.abc import Sequence

import pytest

from dermo_ray.config.watch import WatchSettings
from rewards import Reward
from rewards.watch import Watch, Watched, constant_share, correlations, entropy, falls, gated_share, rises


def reward(total: float = 0.5, gate: float = 1.0, diagnosis: str | None = None, **terms: float) -> Reward:
    return Reward(total, terms, (), dict.fromkeys(terms, 1 / max(1, len(terms))), gate, frozenset(), diagnosis)


def group(*rewards: Reward, length: int = 10) -> Watched:
    return Watched(rewards, [length] * len(rewards))


def test_terms_that_move_together_apart_and_not_at_all() -> None:
    rewards = [reward(a=x, b=x / 2, c=1 - x, d=0.3) for x in (0.0, 0.4, 1.0)]

    found = correlations(rewards)

    assert found == pytest.approx({("a", "b"): 1.0, ("a", "c"): -1.0, ("b", "c"): -1.0})


def test_correlation_is_pearsons_over_completions_that_have_both_terms() -> None:
    rewards = [reward(a=1, b=2), reward(a=2, b=1), reward(a=3, b=3), reward(a=9)]

    assert correlations(rewards)["a", "b"] == pytest.approx(0.5)  # covariance 0.5, both variances 1
    assert correlations([reward(a=1, b=1), reward(a=2)]) == {}
    assert correlations([]) == {}


def test_shares_and_entropy_are_counted_by_hand() -> None:
    assert gated_share([reward(gate=1.0), reward(gate=0.9), reward(gate=0.0), reward(gate=1.0)]) == 0.5
    assert constant_share([group(reward(0.1), reward(0.1)), group(reward(0.1), reward(0.2))]) == 0.5
    assert entropy(["nevus"] * 4) == 0.0
    assert entropy(["nevus", "melanoma"]) == pytest.approx(math.log(2))
    assert entropy(["a", "a", "b", "c"]) == pytest.approx(1.5 * math.log(2))


def test_metrics_of_an_update() -> None:
    watch = Watch(WatchSettings())
    first = watch.observe(
        [
            group(
                reward(1.0, 0.5, "Melanoma", morphology=0.5, consistency=0.9),
                reward(0.0, 1.0, "Nevus", morphology=0.7, consistency=0.5),
            ),
            group(reward(0.2, format=1.0), reward(0.2, format=0.0)),
        ]
    )

    assert first == pytest.approx(
        {
            "watch/gated": 0.25,
            "watch/constant_groups": 0.5,
            "watch/length_drift": 0.0,
            "watch/diagnosis_entropy": math.log(2),
            "watch/consistency_gap": 0.1,
            "watch/alarm": 0.0,
            "watch/correlation/morphology_consistency": -1.0,
        }
    )


def test_without_diagnoses_and_concept_model_their_metrics_are_left_out() -> None:
    assert set(Watch(WatchSettings()).observe([group(reward(format=1.0))])) == {
        "watch/gated",
        "watch/constant_groups",
        "watch/length_drift",
    }


def test_length_drift_is_against_the_first_updates() -> None:
    watch = Watch(WatchSettings(window=4))
    for length in (90, 110, 100, 100):
        watch.observe([group(reward(), length=length)])

    assert watch.observe([group(reward(), length=150)])["watch/length_drift"] == pytest.approx(0.5)
    assert watch.observe([group(reward(), length=50)])["watch/length_drift"] == pytest.approx(-0.5)


def told(
    learned: Sequence[float], reference: Sequence[float], watch: Watch | None = None
) -> list[tuple[float, str | None]]:
    """The metric and the news of each update."""
    watch = watch or Watch(WatchSettings(window=10))
    return [
        (watch.observe([group(reward(consistency=c, morphology=m))])["watch/alarm"], watch.news)
        for c, m in zip(learned, reference, strict=True)
    ]


RISING = [0.3 + 0.02 * step + 0.01 * (-1) ** step for step in range(12)]
FALLING = [1 - value for value in RISING]
LEVEL = [0.5 + 0.02 * (-1) ** step for step in range(12)]


def test_the_alarm_names_both_terms_and_how_far_they_moved() -> None:
    updates = told(RISING, FALLING)

    assert updates[9] == (
        1.0,
        "alarm: over the last 10 updates consistency (the concept model's) rose from 0.310 to 0.470 while morphology "
        "(the annotations') fell from 0.690 to 0.530: the policy may be gaming the concept model",
    )
    assert updates[:9] == [(0.0, None)] * 9
    assert updates[10:] == [(1.0, None)] * 2  # it lasts, and is not told again


def test_the_end_of_an_alarm_is_told_once() -> None:
    updates = told([*RISING, *LEVEL], [*FALLING, *LEVEL])

    (ended,) = [(number, news) for number, (_, news) in enumerate(updates) if news and "over:" in news]
    assert ended[1].startswith("the alarm is over: consistency is at 0.")
    assert {alarm for alarm, _ in updates[ended[0] :]} == {0.0}
    assert sum(news is not None for _, news in updates) == 2


def test_a_watch_that_goes_on_does_not_tell_of_an_alarm_again() -> None:
    watch = Watch(WatchSettings(window=10))
    told(RISING[:10], FALLING[:10], watch)
    went_on = Watch(WatchSettings(window=10), json.loads(json.dumps(watch.memory)))

    assert told(RISING[10:], FALLING[10:], went_on) == [(1.0, None)] * 2
    old = {name: value for name, value in watch.memory.items() if name != "alarmed"}  # as checkpoints were once written
    assert told(RISING[10:11], FALLING[10:11], Watch(WatchSettings(window=10), old))[0][1].startswith("alarm: ")


@pytest.mark.parametrize(
    ("learned", "reference"),
    [(RISING, RISING), (FALLING, FALLING), (FALLING, RISING), (RISING, LEVEL), (LEVEL, FALLING), ([0.5] * 12, FALLING)],
    ids=["both rise", "both fall", "the other way", "reference level", "learned level", "learned constant"],
)
def test_there_is_no_alarm_where_the_terms_do_not_part(learned: Sequence[float], reference: Sequence[float]) -> None:
    assert set(told(learned, reference)) == {(0.0, None)}


def test_there_is_no_alarm_before_the_window_is_full_nor_from_what_lies_before_it() -> None:
    assert set(told(RISING[:9], FALLING[:9])) == {(0.0, None)}
    assert told([*RISING, *LEVEL], [*FALLING, *LEVEL])[-1] == (0.0, None)


def test_noise_alone_raises_an_alarm_as_seldom_as_set() -> None:
    generator = random.Random(0)
    series = [[generator.gauss(0.5, 0.1) for _ in range(20)] for _ in range(2_000)]

    for trend in (rises, falls):
        assert sum(trend(values, 0.05) for values in series) / len(series) == pytest.approx(0.05, abs=0.015)
