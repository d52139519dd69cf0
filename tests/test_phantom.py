"""Phantoms: pure by seed, truthful, told apart by eye, and mixed as the settings ask."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dermo_ray.config import load
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES, Morphology
from dermo_ray.phantom import DIAGNOSES, NuisanceSettings, Phantom, PhantomSettings, diagnose, draw
from dermo_ray.phantom.clinical import DRAWN_FEATURES
from dermo_ray.phantom.render import draw_morphology
from dermo_ray.phantom.sampling import FIELD_SHARES, is_drawable
from dermo_ray.phantom.sheet import contact_sheet

SETTINGS = PhantomSettings()


@pytest.fixture(scope="module")
def population() -> list[Phantom]:
    return [draw(seed, SETTINGS) for seed in range(2000)]


def _digest(phantom: Phantom) -> str:
    about = (phantom.modality, phantom.morphology.to_json(), phantom.diagnosis, phantom.skin_tone, phantom.nuisances)
    return hashlib.sha256(phantom.image.tobytes() + repr(about).encode()).hexdigest()


def test_a_phantom_is_the_same_in_another_process_and_whatever_was_drawn_before() -> None:
    here = [_digest(draw(seed, SETTINGS)) for seed in (11, 3, 7)]
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_phantom import SETTINGS, _digest, draw\n"
        "print(*[_digest(draw(seed, SETTINGS)) for seed in (3, 7, 11)])"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env={"PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(there.stdout.split()) == sorted(here)
    assert len(set(here)) == 3


def test_nuisances_leave_content_and_skin_alone() -> None:
    clean = PhantomSettings(nuisances=NuisanceSettings(strength=0))
    for seed in range(20):
        disturbed, plain = draw(seed, SETTINGS), draw(seed, clean)
        assert disturbed.morphology == plain.morphology
        assert disturbed.skin_tone == plain.skin_tone
        assert set(plain.nuisances.values()) == {0.0}
        same = np.array_equal(disturbed.image, plain.image)
        assert same == (max(disturbed.nuisances.values()) == 0)


@pytest.mark.parametrize("name", sorted(NuisanceSettings.model_fields.keys() - {"strength"}))
def test_each_nuisance_shows(name: str) -> None:
    off = dict.fromkeys(NuisanceSettings.model_fields, 0.0)
    clean = PhantomSettings(nuisances=NuisanceSettings(**off))
    only = PhantomSettings(nuisances=NuisanceSettings(**{**off, name: 1.0, "strength": 1.0}))
    pairs = [(draw(s, only, modality="dermoscopic"), draw(s, clean, modality="dermoscopic")) for s in range(5)]
    assert all(a.nuisances[name] >= 0.3 for a, _ in pairs)
    assert np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in pairs]) > 0.5


def test_the_rules_give_every_phantom_its_diagnosis(population: list[Phantom]) -> None:
    for phantom in population:
        assert diagnose(phantom.morphology) == phantom.diagnosis
        assert DIAGNOSES[phantom.diagnosis].modality == phantom.modality
        assert phantom.morphology.closed


def test_the_table_of_diagnoses_is_wide_enough_and_unambiguous() -> None:
    modalities = Counter(entry.modality for entry in DIAGNOSES.values())
    assert min(modalities["dermoscopic"], modalities["clinical"]) >= 7
    assert len(DIAGNOSES) >= 14
    assert len({entry.superclass for entry in DIAGNOSES.values()}) >= 4
    names = [text.casefold() for entry in DIAGNOSES.values() for text in (entry.name, *entry.synonyms)]
    assert len(names) == len(set(names))


def test_a_morphology_outside_the_drawn_features_still_has_a_diagnosis() -> None:
    assert diagnose(Morphology("skincon", features=frozenset({"Abscess"}))) == "Atopic Dermatitis"
    assert diagnose(Morphology("skincon", features=frozenset({"Plaque", "Scale", "Xerosis"}))) == "Psoriasis"


def test_the_shares_of_field_values_are_those_asked_for(population: list[Phantom]) -> None:
    dermoscopic = [p for p in population if p.modality == "dermoscopic"]
    for field, values in DERM7PT_FIELDS.items():
        counts = Counter(p.morphology.fields[field] for p in dermoscopic)
        shares = np.array([counts[value] for value in values]) / len(dermoscopic)
        assert np.abs(shares - FIELD_SHARES[field]).max() < 0.05, field


def test_modalities_diagnoses_tones_and_features_are_spread_evenly(population: list[Phantom]) -> None:
    clinical = [p for p in population if p.modality == "clinical"]
    assert 0.45 < len(clinical) / len(population) < 0.55
    diagnoses = Counter(p.diagnosis for p in population)
    uniform = len(population) / len(DIAGNOSES)
    assert all(uniform / 3 < diagnoses[name] < uniform * 3 for name in DIAGNOSES)
    tones = Counter(p.skin_tone for p in population)
    assert sorted(tones) == [1, 2, 3, 4, 5, 6]
    assert min(tones.values()) > 250
    features = Counter(name for p in clinical for name in p.morphology.features)
    assert len(DRAWN_FEATURES) >= 24
    assert set(features) == set(DRAWN_FEATURES) <= set(SKINCON_FEATURES)
    assert min(features.values()) / len(clinical) > 0.05
    assert max(features.values()) / len(clinical) < 0.35
    assert all(2 <= len(p.morphology.features) <= 6 and is_drawable(p.morphology.features) for p in clinical)


def test_fields_are_nearly_independent(population: list[Phantom]) -> None:
    dermoscopic = [p for p in population if p.modality == "dermoscopic"]
    for field in DERM7PT_FIELDS:  # the commonest value given any other field's value is no sure guess
        for other in DERM7PT_FIELDS.keys() - {field}:
            pairs = Counter((p.morphology.fields[other], p.morphology.fields[field]) for p in dermoscopic)
            best = sum(max(n for (a, _), n in pairs.items() if a == given) for given in DERM7PT_FIELDS[other])
            assert best / len(dermoscopic) < max(FIELD_SHARES[field]) + 0.12, (field, other)


def _nearest_centroid_accuracy(classes: list[list[np.ndarray]]) -> float:
    """Leave-half-out accuracy over classes of equally many feature vectors."""
    half = len(classes[0]) // 2
    centroids = np.stack([np.mean(members[:half], axis=0) for members in classes])
    tested = [(k, member) for k, members in enumerate(classes) for member in members[half:]]
    hits = [int(np.argmin(((centroids - member) ** 2).sum(1))) == k for k, member in tested]
    return float(np.mean(hits))


def _look(morphology: Morphology, seed: int) -> np.ndarray:
    """What remains of a picture when place and turn are forgotten: colours by distance, and how rough they are."""
    pixels = draw_morphology(morphology, 2, np.random.default_rng(seed), 96).pixels
    y, x = np.mgrid[:96, :96]
    ring = np.minimum(np.hypot(x - 47.5, y - 47.5) // 8, 5).astype(int)
    edges = np.abs(np.diff(pixels, axis=0, append=pixels[-1:])) + np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:]))
    bins = (np.clip(pixels, 0, 0.999) * 8).astype(int) @ (64, 8, 1)
    shades = np.sqrt(np.bincount(bins.ravel(), minlength=512) / bins.size)
    rings = [layer[ring == r].mean(0) for layer in (pixels, 2 * edges) for r in range(6)]
    return np.concatenate([shades, np.concatenate(rings)])


@pytest.mark.parametrize("field", DERM7PT_FIELDS)
def test_the_values_of_each_field_look_different(field: str) -> None:
    classes = []
    for value in DERM7PT_FIELDS[field]:
        fields = {name: values[0] for name, values in DERM7PT_FIELDS.items()} | {field: value}
        if value == "within regression":
            fields["Regression Structures"] = "white areas"
        classes.append([_look(Morphology("derm7pt", fields=fields), seed) for seed in range(12)])
    assert _nearest_centroid_accuracy(classes) > 0.9


def test_the_skincon_features_look_different() -> None:
    classes = []
    for name in DRAWN_FEATURES:
        shown = {name} if is_drawable(frozenset({name})) else {name, "Patch"}
        classes.append([_look(Morphology("skincon", features=frozenset(shown)), seed) for seed in range(8)])
    assert _nearest_centroid_accuracy(classes) > 0.9


def test_overrides_choose_modality_and_diagnosis() -> None:
    assert draw(1, SETTINGS, modality="clinical").modality == "clinical"
    melanoma = draw(1, SETTINGS, diagnosis="Melanoma")
    assert melanoma.diagnosis == "Melanoma"
    assert melanoma.modality == "dermoscopic"
    with pytest.raises(UserError, match="drawn as a dermoscopic image"):
        draw(1, SETTINGS, modality="clinical", diagnosis="Melanoma")
    with pytest.raises(UserError, match="not a phantom diagnosis"):
        draw(1, SETTINGS, diagnosis="Melanomma")
    with pytest.raises(UserError, match="not a modality"):
        draw(1, SETTINGS, modality="x-ray")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="negative"):
        draw(-1, SETTINGS)


def test_weights_choose_what_is_drawn() -> None:
    settings = PhantomSettings(
        size=64, dermoscopic_share=1.0, skin_tones=(0, 0, 0, 0, 0, 1), diagnoses={"Melanoma": 1, "Blue Nevus": 3}
    )
    phantoms = [draw(seed, settings) for seed in range(200)]
    assert {p.skin_tone for p in phantoms} == {6}
    assert 0.65 < Counter(p.diagnosis for p in phantoms)["Blue Nevus"] / 200 < 0.85
    assert phantoms[0].image.shape == (64, 64, 3)
    assert phantoms[0].image.dtype == np.uint8
    with pytest.raises(UserError, match="no clinical diagnosis"):
        draw(0, settings, modality="clinical")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"diagnoses": {"Melanomma": 1}}, "nearest is 'Melanoma'"),
        ({"diagnoses": {"Melanoma": -1}}, "negative"),
        ({"diagnoses": {"Melanoma": 1}}, "no clinical diagnosis"),
        ({"skin_tones": (0, 0, 0, 0, 0, 0)}, "not all 0"),
        ({"dermoscopic_share": 1.5}, "less than or equal to 1"),
        ({"size": 8}, "greater than or equal to 48"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PhantomSettings(**bad)


def test_an_unknown_setting_names_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"nuisances\.hair"):
        load(PhantomSettings, None, ["nuisances.hairs=0.1"])


def test_the_contact_sheet_is_large_and_mostly_filled() -> None:
    pixels = np.asarray(contact_sheet(SETTINGS))
    assert pixels.ndim == 3
    assert min(pixels.shape[:2]) > 900
    assert (np.ptp(pixels, axis=2) > 40).any(axis=1).mean() > 0.7  # rows of pixels that hold a saturated colour
