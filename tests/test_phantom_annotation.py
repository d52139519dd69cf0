"""The annotator errs as often, and in the direction, that the settings say."""

import numpy as np
import pytest

from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.phantom import AnnotationNoise, annotate
from dermo_ray.phantom.annotation import MILDER

SEVERE = Morphology(
    "derm7pt",
    fields={
        "Pigment Network": "atypical",
        "Blue Whitish Veil": "present",
        "Vascular Structures": "linear irregular",
        "Pigmentation": "diffuse irregular",
        "Streaks": "irregular",
        "Dots and Globules": "irregular",
        "Regression Structures": "combinations",
    },
)
CLINICAL = Morphology("skincon", features=frozenset({"Plaque", "Scale", "Erythema", "Fissure"}))


def test_no_noise_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    assert all(annotate(m, AnnotationNoise(), rng) == m for m in (SEVERE, CLINICAL) for _ in range(20))


def test_attenuation_writes_severe_values_as_their_milder_neighbours_at_its_rate() -> None:
    rng = np.random.default_rng(0)
    for field, value in SEVERE.fields.items():
        written = [annotate(SEVERE, AnnotationNoise(attenuation=0.3), rng).fields[field] for _ in range(1000)]
        assert set(written) == {value, MILDER[field][value]}
        assert written.count(MILDER[field][value]) / 1000 == pytest.approx(0.3, abs=0.06)


def test_attenuation_leaves_mild_values_alone() -> None:
    mild = Morphology("derm7pt", fields={name: values[0] for name, values in DERM7PT_FIELDS.items()})
    assert annotate(mild, AnnotationNoise(attenuation=1), np.random.default_rng(0)) == mild


def test_milder_values_are_in_the_vocabulary_and_none_leads_back() -> None:
    for field, table in MILDER.items():
        assert table.keys() | set(table.values()) <= set(DERM7PT_FIELDS[field])
        assert not table.keys() & set(table.values())


def test_omission_leaves_out_present_features_at_its_rate_and_adds_none() -> None:
    rng = np.random.default_rng(0)
    kept = [annotate(CLINICAL, AnnotationNoise(omission=0.25), rng).features for _ in range(1000)]
    assert all(features <= CLINICAL.features for features in kept)
    assert sum(map(len, kept)) / 4000 == pytest.approx(0.75, abs=0.03)


def test_random_replaces_by_uniform_terms() -> None:
    rng = np.random.default_rng(0)
    noise = AnnotationNoise(random=1.0)
    values = [annotate(SEVERE, noise, rng).fields["Streaks"] for _ in range(1500)]
    assert all(values.count(value) / 1500 == pytest.approx(1 / 3, abs=0.05) for value in DERM7PT_FIELDS["Streaks"])
    features = [name for _ in range(1500) for name in annotate(CLINICAL, noise, rng).features]
    assert set(features) == set(SKINCON_FEATURES)
    assert max(features.count(name) for name in SKINCON_FEATURES) / len(features) < 2.5 / len(SKINCON_FEATURES)


def test_an_annotation_is_a_function_of_the_generators_state() -> None:
    noise = AnnotationNoise(attenuation=0.5, omission=0.5, random=0.2)
    for morphology in (SEVERE, CLINICAL):
        first, second = (annotate(morphology, noise, np.random.default_rng(5)) for _ in range(2))
        assert first == second
        assert first.closed
