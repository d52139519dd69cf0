"""How right a concept model is on a split: concepts, fields, diagnoses, by skin tone, with intervals.

Intervals are 95 % bootstrap intervals over groups (patients or lesions). The concepts are measured against what
annotators wrote, and where a source knows better (the phantoms), against the truth too. A diagnosis is predicted from
the concepts seen in the image, and for comparison from the reference's own, over the same images: the second is what
the linear head could reach if the eyes were perfect.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dermo_ray.bench.statistics import Interval, accuracy, bootstrap_mean, bootstrap_statistic
from dermo_ray.models.concepts.calibration import calibrations
from dermo_ray.models.concepts.data import ConceptSamples, Statements
from dermo_ray.models.concepts.model import ConceptModel, Logits, activate
from dermo_ray.models.concepts.ranking import auroc
from dermo_ray.models.concepts.scores import (
    ConceptMeasures,
    ConceptScore,
    ConceptScores,
    DiagnosisScore,
    FeatureScores,
    FieldScore,
    FieldScores,
    GivenScore,
    Source,
    ToneScore,
)
from dermo_ray.models.concepts.vocabulary import CONCEPTS, FIELD_SLICES, SCHEMAS
from dermo_ray.morphology import DERM7PT_FIELDS, Schema
from dermo_ray.records import Split

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_RESAMPLES = 1000


@torch.no_grad()
def measure(model: ConceptModel, samples: ConceptSamples, logits: Logits, split: Split) -> ConceptMeasures:
    """Measure a calibrated model by its `logits` for `samples`, the images of `split`."""
    probabilities = {s: activate(s, logits[s] / model.config.temperature_of(s)).double().numpy() for s in SCHEMAS}
    sources: dict[Source, Statements] = {"annotation": samples.annotation}
    if _differ(samples):
        sources["truth"] = samples.truth
    groups = np.array(samples.groups)
    predicted = _named(model, samples, {s: torch.from_numpy(probabilities[s]).float() for s in SCHEMAS})
    targets = samples.targets(range(len(samples)), model.config.labels or {})  # type: ignore[arg-type]
    return ConceptMeasures(
        split=split,
        images=len(samples),
        concepts={name: _concepts(source, probabilities, groups) for name, source in sources.items()},
        diagnosis=_diagnoses(model, samples, predicted, sources, groups),
        skin_tone=_by_tone(samples, predicted, sources.get("truth", samples.annotation), probabilities, groups),
        calibration=calibrations(model, logits, targets),
        weights={schema: _weights(model, schema) for schema in SCHEMAS if schema in model.diagnosis},
    )


def _differ(samples: ConceptSamples) -> bool:
    return any(
        not torch.equal(getattr(samples.truth, part)[schema], getattr(samples.annotation, part)[schema])
        for part in ("values", "observed")
        for schema in SCHEMAS
    )


def _concepts(
    source: Statements, probabilities: Mapping[Schema, FloatArray], groups: npt.NDArray[Any]
) -> ConceptScores:
    seen = {schema: source.observed[schema].numpy() for schema in SCHEMAS}
    stated = {schema: source.values[schema].numpy()[seen[schema]] for schema in SCHEMAS}
    given = {schema: probabilities[schema][seen[schema]] for schema in SCHEMAS}
    return ConceptScores(
        skincon=_features(stated["skincon"], given["skincon"], groups[seen["skincon"]])
        if seen["skincon"].any()
        else None,
        derm7pt=_fields(stated["derm7pt"], given["derm7pt"], groups[seen["derm7pt"]])
        if seen["derm7pt"].any()
        else None,
    )


def _features(stated: BoolArray, given: FloatArray, groups: npt.NDArray[Any]) -> FeatureScores:
    """Both are [n, 48]."""
    told_apart = _told_apart(stated)
    scores = _by_concept(CONCEPTS["skincon"], stated, given, given >= 0.5, groups)
    return FeatureScores(
        images=len(stated),
        mean_auroc=_bootstrap_auroc(stated[:, told_apart], given[:, told_apart], groups) if told_apart else None,
        features=scores,
    )


def _by_concept(
    names: Sequence[str], stated: BoolArray, given: FloatArray, answered: BoolArray, groups: npt.NDArray[Any]
) -> dict[str, ConceptScore]:
    """The score of each column; all are [n, names], and `answered` is what the model would state."""
    told_apart = _told_apart(stated)
    return {
        name: ConceptScore(
            present=int(stated[:, i].sum()),
            auroc=_bootstrap_auroc(stated[:, [i]], given[:, [i]], groups) if i in told_apart else None,
            f1=float(_f1(stated[:, [i]].T, answered[:, [i]].T)[0]),
        )
        for i, name in enumerate(names)
    }


def _told_apart(stated: BoolArray) -> list[int]:
    """The columns that some images show and others don't."""
    return [i for i in range(stated.shape[1]) if stated[:, i].any() and not stated[:, i].all()]


def _bootstrap_auroc(stated: BoolArray, given: FloatArray, groups: npt.NDArray[Any]) -> Interval:
    """The mean AUROC over columns [n, k]; a column that a resample leaves one-sided is left out there.

    A resample that leaves nothing counts as chance, so that the interval of a rare feature is wide rather than missing.
    """

    def statistic(_: FloatArray, weights: FloatArray) -> FloatArray:
        columns = np.array([auroc(stated[:, k], given[:, k], weights) for k in range(stated.shape[1])])
        told = np.isfinite(columns).sum(axis=0)
        return np.where(told > 0, np.nansum(columns, axis=0) / np.maximum(told, 1), 0.5)

    return bootstrap_statistic([np.arange(len(stated))], statistic, groups=groups, resamples=_RESAMPLES)


def _fields(stated: BoolArray, given: FloatArray, groups: npt.NDArray[Any]) -> FieldScores:
    """Both are [n, 28]; a field that a reference leaves out is not counted there."""
    scores, hits, weights = {}, [], []
    for field, place in FIELD_SLICES.items():
        stands = stated[:, place].any(axis=1)
        right = (given[:, place].argmax(axis=1) == stated[:, place].argmax(axis=1)) & stands
        hits.append(right)
        weights.append(stands)
        if stands.any():
            likeliest = given[stands][:, place].argmax(axis=1)[:, None] == np.arange(place.stop - place.start)
            scores[field] = FieldScore(
                images=int(stands.sum()),
                accuracy=bootstrap_mean(right[stands], groups=groups[stands], resamples=_RESAMPLES),
                majority=float(stated[stands][:, place].mean(axis=0).max()),
                values=_by_concept(
                    DERM7PT_FIELDS[field], stated[stands][:, place], given[stands][:, place], likeliest, groups[stands]
                ),
            )
    right_all, stands_all = np.array(hits, dtype=float), np.array(weights, dtype=float)  # [fields, n]

    def statistic(_: FloatArray, weights: FloatArray) -> FloatArray:
        support = weights @ stands_all.T
        return np.nanmean(
            np.divide(weights @ right_all.T, support, where=support > 0, out=np.full_like(support, np.nan)), axis=1
        )

    mean = bootstrap_statistic([np.arange(len(stated))], statistic, groups=groups, resamples=_RESAMPLES)
    return FieldScores(images=len(stated), mean_accuracy=mean, fields=scores)


def _named(model: ConceptModel, samples: ConceptSamples, concepts: Mapping[Schema, torch.Tensor]) -> list[str | None]:
    """The diagnosis that the linear head makes of each sample's concepts; None where its schema has no labels."""
    answers: list[str | None] = [None] * len(samples)
    for schema in SCHEMAS:
        if schema in model.diagnosis:
            places = model.diagnosis_logits(schema, concepts[schema]).argmax(dim=1).tolist()
            labels = model.config.labels_of(schema)
            for row, place in enumerate(places):
                if samples.schemas[row] == schema:
                    answers[row] = labels[place]
    return answers


def _diagnoses(
    model: ConceptModel,
    samples: ConceptSamples,
    predicted: Sequence[str | None],
    sources: Mapping[Source, Statements],
    groups: npt.NDArray[Any],
) -> dict[Schema, DiagnosisScore]:
    labels = np.array([label or "" for label in samples.labels])
    answers = np.array([answer or "-" for answer in predicted])
    given = {
        name: np.array([a or "-" for a in _named(model, samples, {s: v.float() for s, v in source.values.items()})])
        for name, source in sources.items()
    }
    scores: dict[Schema, DiagnosisScore] = {}
    for schema in SCHEMAS:
        asked = np.array([s == schema for s in samples.schemas]) & (labels != "")
        if schema not in model.diagnosis or not asked.any():
            continue
        _, counts = np.unique(labels[asked], return_counts=True)
        from_reference: dict[Source, GivenScore] = {}
        for name, source in sources.items():
            known = asked & source.observed[schema].numpy()
            if known.any():
                from_reference[name] = GivenScore(
                    images=int(known.sum()),
                    given=_accuracy(labels[known], given[name][known], groups[known]),
                    seen=_accuracy(labels[known], answers[known], groups[known]),
                )
        scores[schema] = DiagnosisScore(
            images=int(asked.sum()),
            majority=float(counts.max() / counts.sum()),
            seen=_accuracy(labels[asked], answers[asked], groups[asked]),
            given=from_reference,
        )
    return scores


def _by_tone(
    samples: ConceptSamples,
    predicted: Sequence[str | None],
    reference: Statements,
    probabilities: Mapping[Schema, FloatArray],
    groups: npt.NDArray[Any],
) -> dict[str, ToneScore]:
    tones = np.array([tone or 0 for tone in samples.skin_tones])
    agreements = np.full(len(samples), np.nan)
    for schema in SCHEMAS:
        known = reference.observed[schema].numpy()
        agreements[known] = _agreements(schema, reference.values[schema].numpy()[known], probabilities[schema][known])
    labels = np.array([label or "" for label in samples.labels])
    answers = np.array([answer or "-" for answer in predicted])
    scores = {}
    for tone in sorted(set(tones.tolist()) - {0}):
        of_tone = tones == tone
        seen, asked = of_tone & ~np.isnan(agreements), of_tone & (labels != "") & (answers != "-")
        scores[str(tone)] = ToneScore(
            images=int(of_tone.sum()),
            morphology=bootstrap_mean(agreements[seen], groups=groups[seen], resamples=_RESAMPLES)
            if seen.any()
            else None,
            diagnosis=_accuracy(labels[asked], answers[asked], groups[asked]) if asked.any() else None,
        )
    return scores


def _agreements(schema: Schema, stated: BoolArray, given: FloatArray) -> FloatArray:
    """Agreement of the likeliest morphology of each image with the reference, [n]."""
    if schema == "skincon":
        return _f1(stated, given >= 0.5)
    right = [
        stated[np.arange(len(stated)), place.start + given[:, place].argmax(axis=1)] for place in FIELD_SLICES.values()
    ]
    return np.mean(right, axis=0)


def _f1(reference: BoolArray, predicted: BoolArray) -> FloatArray:
    """F1 of each row, [rows]; 1 where neither side has anything."""
    total = reference.sum(axis=1) + predicted.sum(axis=1)
    both = (reference & predicted).sum(axis=1)
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def _accuracy(labels: npt.NDArray[Any], answers: npt.NDArray[Any], groups: npt.NDArray[Any]) -> Interval:
    return bootstrap_statistic([labels, answers], accuracy, groups=groups, resamples=_RESAMPLES)


def _weights(model: ConceptModel, schema: Schema) -> dict[str, dict[str, float]]:
    contrast = model.contrast(schema).double().numpy()
    return {
        label: {CONCEPTS[schema][i]: float(row[i]) for i in np.argsort(-row, kind="stable")}
        for label, row in zip(model.config.labels_of(schema), contrast, strict=True)
    }
