"""Correcting a stream: planted shifts are found, and nothing is lost."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.cct import AdaptedStream, CCTResult, adapt, fit_temperature
from dermo_ray.cct.adaptation import estimate_prior, shifted, tempered
from dermo_ray.config.cct import CCTConfig

LABELS = ("nevus", "melanoma", "keratosis")
EVEN = dict.fromkeys(LABELS, 1 / 3)
SHIFT = CCTConfig(adaptation={"prior_shift": True})


def stream(prior: dict[str, float], count: int, separation: float = 1.5) -> tuple[list[dict[str, float]], list[str]]:
    """Exact posteriors under an even prior of images drawn with `prior`, and their labels.

    An image is a point around the corner of its label, with unit noise; so the posterior is known in closed form.
    """
    rng = np.random.default_rng(0)
    truths = rng.choice(len(LABELS), size=count, p=[prior[label] for label in LABELS])
    points = separation * np.eye(len(LABELS))[truths] + rng.normal(size=(count, len(LABELS)))
    odds = np.exp(separation * points)
    posteriors = odds / odds.sum(axis=1, keepdims=True)
    return [dict(zip(LABELS, row.tolist(), strict=True)) for row in posteriors], [LABELS[t] for t in truths]


def results(posteriors: list[dict[str, float]]) -> list[CCTResult]:
    """What `aggregate` would report."""
    ordered = [dict(sorted(p.items(), key=lambda item: -item[1])) for p in posteriors]
    return [CCTResult(next(iter(p)), max(p.values()), p, max(p.values()) < CCTConfig().tau) for p in ordered]


def accuracy(answers: list[CCTResult], truths: list[str]) -> float:
    return sum(result.answer == truth for result, truth in zip(answers, truths, strict=True)) / len(truths)


def test_a_planted_shift_of_labels_is_found_and_corrected() -> None:
    planted = {"nevus": 0.8, "melanoma": 0.15, "keratosis": 0.05}
    posteriors, truths = stream(planted, 4000)
    plain = results(posteriors)
    adapted = adapt(plain, SHIFT, EVEN)
    assert adapted.prior == pytest.approx(planted, abs=0.02)
    assert accuracy(list(adapted.results), truths) > accuracy(plain, truths) + 0.05
    assert adapt(plain, SHIFT).prior == pytest.approx(adapted.prior)  # without a training prior: an even one


def test_labels_as_frequent_as_in_training_change_nothing_much() -> None:
    posteriors, _ = stream(EVEN, 4000)
    assert estimate_prior(posteriors, EVEN) == pytest.approx(EVEN, abs=0.02)


def test_the_estimate_is_relative_to_the_prior_of_training() -> None:
    posteriors, _ = stream(EVEN, 4000)
    trained = {"nevus": 0.6, "melanoma": 0.3, "keratosis": 0.1}
    biased = [shifted(posterior, EVEN, trained) for posterior in posteriors]
    assert estimate_prior(biased, trained) == pytest.approx(EVEN, abs=0.02)


def test_sure_posteriors_give_their_counts() -> None:
    counted = Counter({"nevus": 6, "melanoma": 3, "keratosis": 1})
    posteriors = [{label: 1.0} for label in counted.elements()]
    assert estimate_prior(posteriors, EVEN) == pytest.approx({label: n / 10 for label, n in counted.items()})
    with pytest.raises(KeyError, match="eczema"):
        estimate_prior([{"eczema": 1.0}], EVEN)


POSTERIORS = st.fixed_dictionaries({label: st.floats(0.01, 1) for label in LABELS}).map(
    lambda masses: {label: mass / sum(masses.values()) for label, mass in masses.items()}
)


@given(POSTERIORS, POSTERIORS, POSTERIORS, st.floats(0.3, 3))
def test_every_correction_can_be_undone(
    posterior: dict[str, float], old: dict[str, float], new: dict[str, float], temperature: float
) -> None:
    assert shifted(shifted(posterior, old, new), new, old) == pytest.approx(posterior)
    assert tempered(tempered(posterior, temperature), 1 / temperature) == pytest.approx(posterior)
    assert math.fsum(shifted(posterior, old, new).values()) == pytest.approx(1)


def test_it_is_off_by_default_and_for_short_streams_and_never_changes_its_argument() -> None:
    posteriors, _ = stream({"nevus": 0.9, "melanoma": 0.05, "keratosis": 0.05}, 120)
    plain = results(posteriors)
    before = [dict(result.posterior) for result in plain]
    assert adapt(plain, CCTConfig()) == AdaptedStream(tuple(plain), None)
    assert adapt(plain[:99], SHIFT) == AdaptedStream(tuple(plain[:99]), None)
    assert adapt(plain, SHIFT).prior is not None
    assert [result.posterior for result in plain] == before


def test_the_temperature_that_spoiled_posteriors_is_found() -> None:
    posteriors, truths = stream(EVEN, 4000)
    overconfident = [tempered(posterior, 0.4) for posterior in posteriors]
    found = fit_temperature(overconfident, truths)
    assert found == pytest.approx(2.5, rel=0.1)
    softened = adapt(results(overconfident), CCTConfig(adaptation={"temperature": found}))
    assert [r.answer for r in softened.results] == [r.answer for r in results(overconfident)]
    assert sum(r.abstain for r in softened.results) > sum(r.abstain for r in results(overconfident))


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-6, 1e300])
def test_no_temperature_is_too_small_or_too_great(temperature: float) -> None:
    found = tempered({"nevus": 0.6, "melanoma": 0.4, "keratosis": 0.0}, temperature)
    assert math.fsum(found.values()) == pytest.approx(1)
    assert found["nevus"] == pytest.approx(1.0 if temperature < 1 else 0.5)
    assert found["keratosis"] == 0


def test_an_abstention_for_want_of_evidence_stays_one() -> None:
    silent = CCTResult("nevus", 0.9, {"nevus": 0.9, "melanoma": 0.1}, abstain=True)
    unsure = CCTResult("nevus", 0.45, {"nevus": 0.45, "melanoma": 0.3, "keratosis": 0.25}, abstain=True)
    sharper = CCTConfig(adaptation={"temperature": 0.5})
    assert [r.abstain for r in adapt([silent, unsure], sharper).results] == [True, False]
