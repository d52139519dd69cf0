"""Temperatures that make the model's probabilities honest, and how honest they are.

One temperature a head, fitted on the validation split by likelihood (Guo et al., ICML 2017). It changes no ranking, so
the concepts' AUROC and the field that wins stay as they were.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from torch import Tensor

from dermo_ray.models.concepts.data import NO_LABEL, Targets
from dermo_ray.models.concepts.losses import concept_nll, diagnosis_nll
from dermo_ray.models.concepts.model import ConceptModel, Logits, activate
from dermo_ray.models.concepts.vocabulary import FIELD_SLICES, SCHEMAS
from dermo_ray.morphology import Schema
from dermo_ray.records import Record

_RANGE = math.log(20.0)
_BINS = 15


class Calibration(Record):
    """One head on one split."""

    temperature: float
    """What its logits are divided by; 1 where nothing could be fitted."""
    ece_before: float
    """Expected calibration error at temperature 1."""
    ece_after: float
    """With the temperature."""


def mean_losses(model: ConceptModel, logits: Logits, targets: Targets) -> dict[str, float]:
    """Mean negative log-likelihood of each head that an image counts for, as calibrated; nats an image."""
    losses = {}
    for head, nll in _heads(model, logits, targets).items():
        losses[head] = nll(model.config.temperature_of(head))
    return losses


def calibrate(model: ConceptModel, logits: Logits, targets: Targets) -> None:
    """Set the temperatures in `model.config` to those that fit `targets` best, the concepts' before the diagnosis'."""
    model.config.temperatures = {}
    for schema in SCHEMAS:
        for head in (schema, f"{schema}/diagnosis"):  # the diagnosis is made from calibrated concepts
            nll = _heads(model, logits, targets).get(head)
            if nll is not None:
                model.config.temperatures[head] = _fitted(nll)


def calibrations(model: ConceptModel, logits: Logits, targets: Targets) -> dict[str, Calibration]:
    """How well each head that an image counts for is calibrated, without and with its temperature.

    Of SkinCon every feature of every image is an answer, of Derm7pt every field, of the diagnosis every image.
    """
    result = {}
    for head in _heads(model, logits, targets):
        temperature = model.config.temperature_of(head)
        before, after = (ece(*_answers(model, head, logits, targets, t)) for t in (1.0, temperature))
        result[head] = Calibration(temperature=temperature, ece_before=before, ece_after=after)
    return result


def ece(probabilities: npt.ArrayLike, came_true: npt.ArrayLike) -> float:
    """Expected calibration error of answers given with `probabilities` [n], of which some `came_true` [n].

    The mean, weighted by size, of |share come true - mean probability| over 15 bins of equal width.
    """
    p, hit = np.asarray(probabilities, dtype=np.float64), np.asarray(came_true, dtype=np.float64)
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, hit - p, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(p))


def _heads(model: ConceptModel, logits: Logits, targets: Targets) -> dict[str, Callable[[float], float]]:
    """The mean loss of every head as a function of its temperature."""
    heads: dict[str, Callable[[float], float]] = {}
    for schema in SCHEMAS:
        observed, labelled = targets.observed[schema] > 0, targets.labels[schema] != NO_LABEL
        if bool(observed.any()):
            seen, stated = logits[schema][observed], targets.concepts[schema][observed]
            heads[schema] = _concept_loss(schema, seen, stated)
        if schema in model.diagnosis and bool(labelled.any()):
            diagnosis = _diagnosis_logits(model, schema, logits[schema][labelled])
            heads[f"{schema}/diagnosis"] = _diagnosis_loss(diagnosis, targets.labels[schema][labelled])
    return heads


def _concept_loss(schema: Schema, logits: Tensor, stated: Tensor) -> Callable[[float], float]:
    return lambda temperature: float(concept_nll(schema, logits / temperature, stated).mean())


def _diagnosis_loss(logits: Tensor, labels: Tensor) -> Callable[[float], float]:
    return lambda temperature: float(diagnosis_nll(logits / temperature, labels).mean())


def _diagnosis_logits(model: ConceptModel, schema: Schema, logits: Tensor) -> Tensor:
    concepts = activate(schema, logits / model.config.temperature_of(schema))
    return model.diagnosis_logits(schema, concepts)


def _fitted(nll: Callable[[float], float]) -> float:
    found = minimize_scalar(lambda log: nll(math.exp(log)), bounds=(-_RANGE, _RANGE), method="bounded")
    return float(math.exp(found.x))


def _answers(
    model: ConceptModel, head: str, logits: Logits, targets: Targets, temperature: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The probability of every answer of a head, and whether it came true."""
    schema: Schema = "skincon" if head.startswith("skincon") else "derm7pt"
    if head != schema:
        labelled = targets.labels[schema] != NO_LABEL
        probabilities = (_diagnosis_logits(model, schema, logits[schema][labelled]) / temperature).softmax(dim=1)
        best, named = probabilities.max(dim=1)
        return best.numpy(), (named == targets.labels[schema][labelled]).numpy()
    observed = targets.observed[schema] > 0
    probabilities = activate(schema, logits[schema][observed] / temperature)
    stated = targets.concepts[schema][observed]
    if schema == "skincon":
        return probabilities.flatten().numpy(), stated.flatten().numpy()
    best_of_fields, hits = [], []
    for place in FIELD_SLICES.values():
        given = stated[:, place].sum(dim=1) > 0
        best, value = probabilities[given, place].max(dim=1)
        best_of_fields.append(best)
        hits.append(value == stated[given, place].argmax(dim=1))
    return _joined(best_of_fields), _joined(hits)


def _joined(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    return np.concatenate([part.numpy() for part in parts]).astype(np.float64)
