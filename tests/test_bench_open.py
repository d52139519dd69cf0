"""Open answers taken apart: whatever the form, prose, morphology and diagnosis are found."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.bench.tasks import Answer, BenchItem, Facts, Question, comparison, parts, score
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_KEY, agreement

CHECKLIST = {name: values[-1] for name, values in DERM7PT_FIELDS.items()}
TITLE_CASE = {DERM7PT_KEY: CHECKLIST}
SNAKE_CASE = {DERM7PT_KEY: {name.lower().replace(" ", "_"): value for name, value in CHECKLIST.items()}}
FEATURES = {SKINCON_KEY: ["Plaque", "Scale"]}


@pytest.mark.parametrize("value", [TITLE_CASE, SNAKE_CASE, FEATURES])
@pytest.mark.parametrize(
    "form",
    [
        "<morph>{}</morph>\nA dark patch.",
        "```json\n{}\n```\nA dark patch.",
        "{}\n\nA dark patch.",
        "<MORPH>\n{}\n</MORPH>A dark patch.",
    ],
)
def test_a_morphology_is_read_with_its_nested_object_in_either_spelling(value, form):
    for text in (json.dumps(value), json.dumps(value, indent=2)):
        found = parts(form.format(text))
        assert found.morphology is not None
        assert agreement(found.morphology, value) == 1.0
        assert found.prose == "A dark patch."


def test_other_keys_beside_the_morphology_are_passed_over():
    found = parts(json.dumps(FEATURES | {"morphological_features_others": ["Ring"]}))
    assert (found.morphology.features, found.prose) == (frozenset({"Plaque", "Scale"}), "")


def test_title_case_agrees_with_snake_case():
    assert agreement(parts(json.dumps(TITLE_CASE)).morphology, parts(json.dumps(SNAKE_CASE)).morphology) == 1.0


def test_the_three_blocks_of_grounded_reasoning_are_told_apart():
    text = (
        f"<reasoning>It is dark, so it is malignant.</reasoning>\n<morph>{json.dumps(SNAKE_CASE)}</morph>\n"
        "<final_diagnosis>Melanoma</final_diagnosis>"
    )
    found = parts(text)
    assert (found.prose, found.diagnosis) == ("It is dark, so it is malignant.", "Melanoma")
    assert found.morphology is not None


@pytest.mark.parametrize(
    ("text", "diagnosis"),
    [
        ("It is scaly.\n\n**Final diagnosis:** Psoriasis.", "Psoriasis"),
        ("The most likely diagnosis is Psoriasis", "Psoriasis"),
        ("<final_diagnosis>Eczema</final_diagnosis> no, <final_diagnosis>Psoriasis</final_diagnosis>", "Psoriasis"),
        ("<final_diagnosis>Psoriasis", "Psoriasis"),
        ("<final_diagnosis> </final_diagnosis>", None),
        ("It is scaly.", None),
        ("Diagnosis: " + "very " * 100 + "long", None),
    ],
)
def test_the_last_diagnosis_that_is_marked_or_spoken_of_counts(text, diagnosis):
    assert parts(text).diagnosis == diagnosis


@pytest.mark.parametrize(
    "text",
    [
        '{"morphological_features_Derm7pt": {"Streaks": "absent"',
        '{"morphological_features_skincon": "Plaque"}',
        '{"morphological_features_skincon": ' + "[" * 5_000,
        "{}",
        "",
    ],
)
def test_what_is_no_morphology_is_none_and_stays_in_the_prose(text):
    found = parts(text)
    assert found.morphology is None
    assert found.prose == text.strip()


def test_a_comparison_holds_what_is_known_beside_the_reference_text():
    item = BenchItem(
        id="t3.1/1",
        task="t3.1",
        images=(),
        questions=(Question(text="What is it?"),),
        reference="<reasoning>It has scale.</reasoning>\n<final_diagnosis>Psoriasis Vulgaris</final_diagnosis>",
        facts=Facts(label="Psoriasis", morphology=FEATURES),
    )
    stated, reference = comparison(item, f"Scaly plaque. {json.dumps(FEATURES)} Diagnosis: Psoriasis")
    assert (stated.diagnosis, reference.diagnosis) == ("Psoriasis", "Psoriasis")
    assert agreement(stated.morphology, reference.morphology) == 1.0
    assert reference.prose == "It has scale."
    with pytest.raises(ValueError, match="a judge scores it"):
        score(item, Answer(item=item.id, texts=("Psoriasis",)))


@given(st.text(alphabet='{}[]<>/":, morphological_features_skinconreasoning', max_size=300))
def test_any_text_can_be_taken_apart(text):
    assert parts(text).diagnosis is None or parts(text).diagnosis


@pytest.mark.parametrize(
    "piece", ['{"morphological_features_skincon": ', "<reasoning>", "<final_diagnosis>", "diagnosis is ", "```"]
)
def test_long_answers_are_taken_apart_in_linear_time(piece):
    start = time.process_time()
    parts(piece * 50_000)
    assert time.process_time() - start < 3
