"""How answers are read: letters, words, diagnoses; and what is no answer."""

import math

import pytest

from dermo_ray.cct import Sample, choice, diagnosis, lettered_choice
from dermo_ray.cct.questions import votes_only
from dermo_ray.morphology import Morphology
from dermo_ray.taxonomy import Taxonomy

OPTIONS = {"A": "Melanoma", "B": "Melanoma in situ", "C": "Basal Cell Carcinoma", "I": "Nevus"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("C) Basal Cell Carcinoma", "Basal Cell Carcinoma"),
        ("C", "Basal Cell Carcinoma"),
        ("(C)", "Basal Cell Carcinoma"),
        ("**B**", "Melanoma in situ"),
        ("A.\nThe border is irregular.", "Melanoma"),
        ("The answer is (C).", "Basal Cell Carcinoma"),
        ("Nothing speaks for a nevus.\nAnswer: A", "Melanoma"),
        ("melanoma IN situ", "Melanoma in situ"),
        ("This shows Melanoma.", "Melanoma"),
        ("Nevus, not Melanoma", "Nevus"),
        ("A) Nevus", "Melanoma"),
        ("I think that this is a basal cell carcinoma", "Basal Cell Carcinoma"),
        ("A basal cell carcinoma", "Basal Cell Carcinoma"),
        ("D", None),
        ("", None),
        ("It may be Melanoma or Nevus", None),
        ("Option A: or option B:", None),
        ("Melanomas", None),
    ],
)
def test_an_answer_by_letter_or_in_words_is_read(text: str, answer: str | None) -> None:
    rollout = lettered_choice(OPTIONS).read(Sample(text))
    assert (None if rollout is None else rollout.answer) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Neoplasms", "Neoplasms"), ('"inflammatory diseases"', "Inflammatory Diseases"), ("Genodermatoses", None)],
)
def test_a_step_down_the_taxonomy_is_read_in_words(text: str, answer: str | None) -> None:
    rollout = choice(["Neoplasms", "Inflammatory Diseases", "Inflammatory"]).read(Sample(text))
    assert (None if rollout is None else rollout.answer) == answer


def test_the_probabilities_of_options_are_those_of_what_they_stand_for() -> None:
    top = [{"A": math.log(0.5), "B": math.log(0.2), "D": math.log(0.1)}, {}]
    said = Sample("A) Nevus", ["A", ") Nevus"], [math.log(0.5), 0.0], top)
    question = lettered_choice({"A": "Nevus", "B": "Melanoma", "C": "Acne", "D": "Nevus"})
    rollout = question.read(said)
    assert rollout is not None
    assert rollout.option_probabilities == pytest.approx({"Nevus": 0.6, "Melanoma": 0.2, "Acne": 0.0})
    assert rollout.confidence == pytest.approx(0.75)
    assert question.answers == ("Nevus", "Melanoma", "Acne")
    plain = votes_only(question).read(said)
    assert plain is not None
    assert (plain.answer, plain.confidence, plain.option_probabilities) == ("Nevus", rollout.confidence, None)


def test_without_the_likeliest_tokens_confidence_is_the_answers_own_probability() -> None:
    rollout = choice(["Nevus", "Melanoma"]).read(Sample("Nevus", ["Ne", "vus"], [math.log(0.8), math.log(0.5)]))
    assert rollout is not None
    assert (rollout.confidence, rollout.option_probabilities) == (pytest.approx(0.8), None)
    silent = choice(["Nevus", "Melanoma"]).read(Sample("Nevus"))
    assert silent is not None
    assert silent.confidence == 1


TASK3 = (
    "<reasoning>Plaques.</reasoning>\n"
    '<morph>{"morphological_features_skincon": ["Plaque"]}</morph>\n'
    "<final_diagnosis>Psoriasis</final_diagnosis>"
)


def test_a_diagnosis_is_read_with_its_morphology_and_the_probability_of_its_tokens() -> None:
    head, tail = TASK3.split("Psoriasis")
    tokens = [head, "Psor", "iasis", tail]
    said = Sample(TASK3, tokens, [math.log(p) for p in (0.01, 0.9, 0.4, 0.01)])
    rollout = diagnosis(Taxonomy.load()).read(said)
    assert rollout is not None
    assert rollout.answer == "Psoriasis"
    assert rollout.confidence == pytest.approx(0.6)
    assert rollout.morphology == Morphology("skincon", features=frozenset({"Plaque"}))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<final_diagnosis> bcc </final_diagnosis>", "Basal Cell Carcinoma"),
        ("<final_diagnosis>A  rare thing</final_diagnosis>", "A rare thing"),
        ("Psoriasis.</final_diagnosis><final_diagnosis>Psoriasis</final_diagnosis>", "Psoriasis"),
        ("<final_diagnosis>Psoriasis or Eczema</final_diagnosis>", None),
        ("<final_diagnosis>Psoriasis", None),
        ("Psoriasis", None),
        ("<final_diagnosis>Psoriasis</final_diagnosis><final_diagnosis>Nevus</final_diagnosis>", None),
    ],
)
def test_only_one_label_in_one_block_is_a_diagnosis(text: str, answer: str | None) -> None:
    rollout = diagnosis(Taxonomy.load()).read(Sample(text, [text], [0.0]))
    assert (None if rollout is None else rollout.answer) == answer


def test_diagnoses_outside_the_tree_are_like_themselves_alone() -> None:
    similarity = diagnosis(Taxonomy.load()).similarity
    assert similarity("A rare thing", "A rare thing") == 1
    assert similarity("A rare thing", "Psoriasis") == 0
    assert 0 < similarity("Melanoma", "Melanocytic Nevus") < 1


@pytest.mark.parametrize(("options", "asked"), [(4, 8), (25, 20)])
def test_twice_as_many_likeliest_tokens_are_asked_for_as_there_are_options_up_to_what_servers_allow(
    options: int, asked: int
) -> None:
    lettered = lettered_choice({chr(ord("A") + i): f"diagnosis {i}" for i in range(options)})
    assert lettered.top_logprobs == choice([f"diagnosis {i}" for i in range(options)]).top_logprobs == asked
    assert diagnosis(Taxonomy.load()).top_logprobs == 0
