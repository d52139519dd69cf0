"""Correcting posteriors over a stream of images: for their temperature, and for labels more frequent than in training.

Saerens, Latinne and Decaestecker (Neural Computation, 2002): where only the frequencies of labels differ, p(label)
among the images is the fixed point of averaging the posteriors that it implies. That holds for calibrated posteriors,
so the temperature comes first.

Invariants: a result is never changed in place and no weight is touched, so plain CCT is there beside the adapted one;
an adapted posterior sums to 1 over the labels of the plain one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from dermo_ray.cct.aggregation import CCTResult
from dermo_ray.config.cct import CCTConfig

Posterior = Mapping[str, float]

_TEMPERATURES = math.log(20.0)  # either way
_LEAST_PROBABILITY = 1e-6  # of the truth, in the likelihood: one that nobody voted for has none
_TOLERANCE = 1e-8
_MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class AdaptedStream:
    """The corrected results, in order, and what they were corrected for."""

    results: tuple[CCTResult, ...]
    prior: dict[str, float] | None
    """How frequent each label is estimated to be; None where the prior was left alone."""


def adapt(
    results: Sequence[CCTResult], config: CCTConfig, training_prior: Mapping[str, float] | None = None
) -> AdaptedStream:
    """Correct the results of a stream as `config.adaptation` says; where it says nothing, they are as they were.

    `training_prior` gives how frequent each label was in training, all alike where it is not given. Answers must be
    labels that mean the same for every image. An abstention for want of evidence or answers stays one.
    """
    settings = config.adaptation
    shifts = settings.prior_shift and len(results) >= settings.min_items
    if settings.temperature == 1 and not shifts:
        return AdaptedStream(tuple(results), None)
    posteriors = [tempered(result.posterior, settings.temperature) for result in results]
    prior = None
    if shifts:
        labels = sorted({label for posterior in posteriors for label in posterior})
        trained = dict.fromkeys(labels, 1 / len(labels)) if training_prior is None else training_prior
        prior = estimate_prior(posteriors, trained)
        posteriors = [shifted(posterior, trained, prior) for posterior in posteriors]
    pairs = zip(results, posteriors, strict=True)
    return AdaptedStream(tuple(_with_posterior(result, posterior, config.tau) for result, posterior in pairs), prior)


def tempered(posterior: Posterior, temperature: float) -> dict[str, float]:
    """The posterior to the power 1 / temperature, normalised; above 1 it becomes less sure.

    Powers are taken of what is left of the greatest probability, so that it stays above 0 at any temperature.
    """
    most = max(posterior.values())
    masses = {label: math.exp(math.log(p / most) / temperature) if p > 0 else 0.0 for label, p in posterior.items()}
    return _normalised(masses)


def shifted(posterior: Posterior, old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """The posterior for labels distributed as `new` where it was made for `old`; exchanging them undoes it."""
    return _normalised({label: p * new[label] / old[label] for label, p in posterior.items()})


def fit_temperature(posteriors: Sequence[Posterior], truths: Sequence[str]) -> float:
    """The temperature in [1/20, 20] under which labelled validation images are likeliest (Guo et al., ICML 2017)."""

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        pairs = zip(posteriors, truths, strict=True)
        return -math.fsum(math.log(max(tempered(p, temperature).get(t, 0.0), _LEAST_PROBABILITY)) for p, t in pairs)

    return math.exp(minimize_scalar(loss, bounds=(-_TEMPERATURES, _TEMPERATURES), method="bounded").x)


def estimate_prior(posteriors: Sequence[Posterior], training_prior: Mapping[str, float]) -> dict[str, float]:
    """How frequent each label of `training_prior` is among images with these `posteriors`, by expectation-maximisation.

    Raises `KeyError` for a posterior with a label that has no training prior.
    """
    labels = list(training_prior)
    column = {label: number for number, label in enumerate(labels)}
    matrix = np.zeros((len(posteriors), len(labels)))
    for row, posterior in enumerate(posteriors):
        for label, p in posterior.items():
            matrix[row, column[label]] = p
    trained = np.array([training_prior[label] for label in labels])
    prior = trained / trained.sum()
    for _ in range(_MAX_ITERATIONS):
        implied = matrix * (prior / trained)
        updated = (implied / implied.sum(axis=1, keepdims=True)).mean(axis=0)
        moved = float(np.abs(updated - prior).max())
        prior = updated
        if moved < _TOLERANCE:
            break
    return dict(zip(labels, prior.tolist(), strict=True))


def _with_posterior(result: CCTResult, posterior: dict[str, float], tau: float) -> CCTResult:
    ordered = dict(sorted(posterior.items(), key=lambda item: -item[1]))  # a stable sort: ties stay as they were
    answer = next(iter(ordered))
    without_evidence = result.abstain and result.confidence >= tau
    return CCTResult(answer, ordered[answer], ordered, ordered[answer] < tau or without_evidence)


def _normalised(masses: Posterior) -> dict[str, float]:
    total = math.fsum(masses.values())
    return {label: mass / total for label, mass in masses.items()}
