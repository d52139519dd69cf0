"""Both vocabularies are closed, forgiving in spelling, and compared as published."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermo_ray.morphology import (
    DERM7PT_FIELDS,
    DERM7PT_KEY,
    SKINCON_FEATURES,
    SKINCON_KEY,
    Morphology,
    MorphologyError,
    agreement,
)

FIRST_VALUES = {name: values[0] for name, values in DERM7PT_FIELDS.items()}

skincon = st.frozensets(st.sampled_from(SKINCON_FEATURES)).map(lambda found: Morphology("skincon", features=found))
derm7pt = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in DERM7PT_FIELDS.items()}).map(
    lambda fields: Morphology("derm7pt", fields=fields)
)
morphologies = st.one_of(skincon, derm7pt)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(SKINCON_FEATURES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.sampled_from([SKINCON_KEY, DERM7PT_KEY, *DERM7PT_FIELDS]), st.text()), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


def test_the_vocabularies_have_the_published_sizes_and_order() -> None:
    assert len(SKINCON_FEATURES) == len(set(SKINCON_FEATURES)) == 48
    assert list(SKINCON_FEATURES) == sorted(SKINCON_FEATURES)
    assert [len(values) for values in DERM7PT_FIELDS.values()] == [3, 2, 8, 5, 3, 3, 4]


def test_snake_case_keys_and_case_and_space_in_values_are_read_as_title_case() -> None:
    snake = {name.lower().replace(" ", "_"): f" {value.upper()} " for name, value in FIRST_VALUES.items()}

    assert Morphology.from_json({DERM7PT_KEY: snake}) == Morphology("derm7pt", fields=FIRST_VALUES)


def test_features_are_read_in_any_case_and_written_sorted_in_the_published_spelling() -> None:
    morphology = Morphology.from_json({SKINCON_KEY: ["scale", "FLAT  TOPPED", "brown(hyperpigmentation)"]})

    assert morphology.to_json() == {SKINCON_KEY: ["Brown(Hyperpigmentation)", "Flat topped", "Scale"]}
    assert morphology.closed


@pytest.mark.parametrize(
    ("value", "unknown", "missing", "repeated"),
    [
        ({SKINCON_KEY: ["Scale", "Sparkle", 1, None, ["Scale"]]}, 4, 0, 0),
        ({SKINCON_KEY: ["Scale", "scale", "Papule"]}, 0, 0, 1),
        ({DERM7PT_KEY: {}}, 0, 7, 0),
        ({DERM7PT_KEY: FIRST_VALUES | {"Sparkle": "absent"}}, 1, 0, 0),
        ({DERM7PT_KEY: FIRST_VALUES | {"Streaks": "lots"}}, 1, 1, 0),
        ({DERM7PT_KEY: FIRST_VALUES | {"Streaks": None}}, 1, 1, 0),
        ({DERM7PT_KEY: FIRST_VALUES | {"streaks": "regular"}}, 1, 0, 0),
    ],
)
def test_what_is_outside_the_vocabulary_is_counted_and_not_kept(
    value: dict[str, object], unknown: int, missing: int, repeated: int
) -> None:
    morphology = Morphology.from_json(value)

    assert (morphology.unknown, morphology.missing, morphology.repeated) == (unknown, missing, repeated)
    assert not morphology.closed
    assert set(morphology.features) <= set(SKINCON_FEATURES)
    assert all(stated in DERM7PT_FIELDS[name] for name, stated in morphology.fields.items())


@pytest.mark.parametrize(
    "value",
    [None, 1, "Scale", [], {}, {"features": []}, {SKINCON_KEY: {}}, {SKINCON_KEY: "Scale"}, {DERM7PT_KEY: []},
     {SKINCON_KEY: [], DERM7PT_KEY: {}}, {SKINCON_KEY: [], "note": ""}, {SKINCON_KEY.upper(): []}],
)  # fmt: skip
def test_another_shape_is_no_morphology(value: object) -> None:
    with pytest.raises(MorphologyError):
        Morphology.from_json(value)
    assert agreement(value, {SKINCON_KEY: []}) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "reference", "score"),
    [
        ([], [], 1.0),
        (["Scale"], [], 0.0),
        ([], ["Scale"], 0.0),
        (["Scale"], ["Scale"], 1.0),
        (["Scale", "Plaque"], ["Scale"], 2 / 3),
        (["Scale", "Plaque"], ["Scale", "Papule"], 1 / 2),
        (["Scale", "Sparkle"], ["Scale"], 2 / 3),
        (["Sparkle"], [], 0.0),
        (list(SKINCON_FEATURES), ["Scale", "Plaque"], 4 / 50),
    ],
)
def test_skincon_agreement_is_the_f1_of_the_sets_with_inventions_held_against_it(
    stated: list[str], reference: list[str], score: float
) -> None:
    assert agreement({SKINCON_KEY: stated}, {SKINCON_KEY: reference}) == pytest.approx(score)


def test_derm7pt_agreement_is_the_share_of_fields_right() -> None:
    one_wrong = FIRST_VALUES | {"Streaks": "regular"}
    two_left_out = dict(list(FIRST_VALUES.items())[2:])

    assert agreement({DERM7PT_KEY: one_wrong}, {DERM7PT_KEY: FIRST_VALUES}) == pytest.approx(6 / 7)
    assert agreement({DERM7PT_KEY: two_left_out}, {DERM7PT_KEY: FIRST_VALUES}) == pytest.approx(5 / 7)


def test_the_other_schema_or_nothing_agrees_with_nothing() -> None:
    assert agreement({SKINCON_KEY: []}, {DERM7PT_KEY: FIRST_VALUES}) == 0.0
    assert agreement({DERM7PT_KEY: FIRST_VALUES}, {SKINCON_KEY: []}) == 0.0
    assert agreement(None, {SKINCON_KEY: []}) == agreement({SKINCON_KEY: []}, None) == 0.0


@settings(max_examples=300, deadline=None)
@given(morphologies)
def test_a_morphology_survives_json_and_agrees_with_itself(morphology: Morphology) -> None:
    assert Morphology.from_json(json.loads(json.dumps(morphology.to_json()))) == morphology
    assert morphology.closed
    assert agreement(morphology, morphology) == 1.0


@settings(max_examples=300, deadline=None)
@given(json_values, morphologies)
def test_agreement_is_in_the_unit_interval_whatever_is_stated(value: object, reference: Morphology) -> None:
    assert 0.0 <= agreement(value, reference) <= 1.0  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(skincon, skincon)
def test_skincon_agreement_is_symmetric_and_1_only_for_equal_sets(a: Morphology, b: Morphology) -> None:
    assert agreement(a, b) == agreement(b, a)
    assert (agreement(a, b) == 1.0) == (a == b)
