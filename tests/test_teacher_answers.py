"""What a teacher may answer: its schema, how it is read, and which texts the filters find fault with."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dermo_ray.completion import Completion, parse, render
from dermo_ray.config.teacher import FilterSettings
from dermo_ray.data.teacher.filters import Draft, diagnoses_named, first_fault
from dermo_ray.data.teacher.schema import answer_schema, decoding_schema, read
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_FEATURES, SKINCON_KEY, Morphology
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
MORPHOLOGY = Morphology("skincon", features=frozenset({"Plaque", "Scale"}))
QUESTIONS = [
    (kind, modality) for kind in ("observation", "description", "reasoning") for modality in ("clinical", "dermoscopic")
]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Typical of basal-cell carcinoma.", ["Basal Cell Carcinoma"]),
        ("BCC is likely.", ["Basal Cell Carcinoma"]),
        ("two moles and several MELANOMAS", ["Melanocytic Nevus", "Melanoma"]),
        ("a blue naevus", ["Blue Nevus"]),
        ("Stevens-Johnson syndrome / toxic epidermal necrolysis (SJS/TEN)",
         ["Stevens-Johnson Syndrome / Toxic Epidermal Necrolysis (SJS/TEN)"]),
        ("as sk df mel bcc", []),
        ("melanomatous, warty, eczematous, pigmented", []),
        ("", []),
    ],
)  # fmt: skip
def test_diagnoses_are_found_as_whole_words_by_any_of_their_names(text: str, labels: list[str]) -> None:
    assert [label for _, label in diagnoses_named(text, TAXONOMY)] == labels


@pytest.mark.parametrize("feature", SKINCON_FEATURES)
def test_a_description_may_use_every_term_of_the_vocabulary(feature: str) -> None:
    text = f"On the left arm there is: {feature}, {feature.lower()}; a sharp border."
    assert first_fault(Draft(text), "description", FilterSettings(min_words=1), TAXONOMY) is None


@given(st.text(max_size=200))
def test_a_text_that_passes_can_be_written_into_records(text: str) -> None:
    description = " ".join(text.split())
    if first_fault(Draft(description), "description", FilterSettings(min_words=1), TAXONOMY) is None:
        written = render(Completion("task1", morphology=MORPHOLOGY, description=description))
        assert parse(written, "task1").description == description


def answers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit one of our schemas."""
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: answers(below) for name, below in schema["properties"].items()})
    if schema["type"] == "array":
        return st.lists(answers(schema["items"]), unique=schema.get("uniqueItems", False), max_size=6)
    return st.sampled_from(schema["enum"]) if "enum" in schema else st.text(max_size=20)


@pytest.mark.parametrize(("kind", "modality"), QUESTIONS)
@hypothesis_settings(max_examples=30)
@given(data=st.data())
def test_what_fits_the_schema_is_read_and_what_does_not_is_not(data: st.DataObject, kind: Any, modality: Any) -> None:
    schema = answer_schema(kind, modality)
    checker = jsonschema.Draft202012Validator(schema)
    value = data.draw(answers(schema))
    assert checker.is_valid(value)
    assert read(json.dumps(value), kind, modality) is not None
    key = data.draw(st.sampled_from(sorted(value)))
    spoilt = data.draw(st.sampled_from([None, 3, ["Halo"], [1], {}, {"Streaks": "absent"}, {"Halo": "absent"}]))
    for other in (value | {key: spoilt}, {k: v for k, v in value.items() if k != key}, value | {"more": ""}):
        assert (read(json.dumps(other), kind, modality) is not None) == checker.is_valid(other)


@pytest.mark.parametrize(("kind", "modality"), QUESTIONS)
def test_schemas_are_ones_that_strict_modes_take(kind: Any, modality: Any) -> None:
    def check(node: dict[str, Any]) -> None:
        assert node.keys() <= {"type", "properties", "required", "additionalProperties", "items", "enum"}
        if node["type"] == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        for below in [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]:
            check(below)

    schema = answer_schema(kind, modality)
    jsonschema.Draft202012Validator.check_schema(schema)
    check(decoding_schema(schema))


def test_the_schema_of_a_coding_is_the_closed_vocabulary() -> None:
    skincon = answer_schema("observation", "clinical")["properties"][SKINCON_KEY]
    assert skincon == {"type": "array", "items": {"type": "string", "enum": [*SKINCON_FEATURES]}, "uniqueItems": True}
    derm7pt = answer_schema("observation", "dermoscopic")["properties"][DERM7PT_KEY]["properties"]
    assert {name: tuple(field["enum"]) for name, field in derm7pt.items()} == dict(DERM7PT_FIELDS)
