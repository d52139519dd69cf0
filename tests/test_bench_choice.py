"""Multiple choice: which options a question has, and which one an answer names."""

import time
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.bench.tasks.choice import chosen, field, question
from dermo_ray.bench.tasks.items import Question
from dermo_ray.data.samples import Reject
from dermo_ray.morphology import DERM7PT_FIELDS

OPTIONS = ("Melanoma", "Melanoma In Situ", "Basal Cell Carcinoma", "Brown(Hyperpigmentation)")


def asked(*options: str, stem: str = "Which is it?") -> str:
    return "\n".join([stem, *(f"{letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False))])


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("C", "Basal Cell Carcinoma"),
        ("c)", "Basal Cell Carcinoma"),
        ("(C)", "Basal Cell Carcinoma"),
        ("C.", "Basal Cell Carcinoma"),
        ("C) Basal Cell Carcinoma", "Basal Cell Carcinoma"),
        ("C Basal cell carcinoma", "Basal Cell Carcinoma"),
        ("**C) Basal Cell Carcinoma**", "Basal Cell Carcinoma"),
        ("C) Basal Cell Carcinoma\n\nIt has arborizing vessels.", "Basal Cell Carcinoma"),
        ("C - it has arborizing vessels", "Basal Cell Carcinoma"),
        ("basal cell carcinoma.", "Basal Cell Carcinoma"),
        ("Basal-cell carcinoma", "Basal Cell Carcinoma"),
        ("The answer is C.", "Basal Cell Carcinoma"),
        ("The answer is option C", "Basal Cell Carcinoma"),
        ("**Answer:** C) Basal Cell Carcinoma", "Basal Cell Carcinoma"),
        ("It has vessels.\nFinal answer:\n(C)", "Basal Cell Carcinoma"),
        ("It has vessels.\n\\boxed{C}", "Basal Cell Carcinoma"),
        ("It has vessels.\n<answer>C</answer>", "Basal Cell Carcinoma"),
        ("<think>A) or B)? The answer is A.</think>\nC", "Basal Cell Carcinoma"),
        ("A) no network\nB) no veil\nC) vessels\nAnswer: C", "Basal Cell Carcinoma"),
        ("The answer is A? No.\nThe answer is C.", "Basal Cell Carcinoma"),
        ("D) Brown(Hyperpigmentation)", "Brown(Hyperpigmentation)"),
        ("Melanoma", "Melanoma"),
        ("Melanoma in situ", "Melanoma In Situ"),
        ("The diagnosis is melanoma in situ.", "Melanoma In Situ"),
        ("Answer: C, since it has vessels", "Basal Cell Carcinoma"),
        ("C, a nodule with a rolled border", "Basal Cell Carcinoma"),
        ("I would choose option C.", "Basal Cell Carcinoma"),
        ("It has vessels, so I pick C) Basal Cell Carcinoma", "Basal Cell Carcinoma"),
        ("I would not choose B. I would go with C.", "Basal Cell Carcinoma"),
        ("Basal Cell Carcinoma (option C)", "Basal Cell Carcinoma"),
        ("basal cell carcinoma (C).", "Basal Cell Carcinoma"),
        ("The answer is a nodular carcinoma (option C).", "Basal Cell Carcinoma"),
        ('It looks like "Basal Cell Carcinoma" to me.', "Basal Cell Carcinoma"),
    ],
)
def test_an_answer_names_an_option_by_its_letter_or_by_its_whole_text(answer, named):
    assert OPTIONS[chosen(answer, OPTIONS).place] == named


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "no_answer"),
        (" \n ", "no_answer"),
        ("<think>It could be A. The answer is A", "no_answer"),
        ("E", "unreadable"),
        ("A melanoma has an atypical network.", "unreadable"),
        ("I can't tell from this image.", "unreadable"),
        ("e.g. vessels", "unreadable"),
        ("Amelanotic", "unreadable"),
        ("Nodular Melanoma", "unreadable"),
        ("A) Basal Cell Carcinoma", "several"),
        ("A) Melanoma or C) Basal Cell Carcinoma", "several"),
        ("Melanoma\nThe answer is C.", "several"),
        ("Melanoma (option C)", "several"),
        ("A, B or C", "several"),
        ("Answer: B, C", "several"),
        ('Either "Melanoma" or "Basal Cell Carcinoma".', "several"),
        ('It is not "Melanoma".', "unreadable"),
        ("I would not choose option C.", "unreadable"),
        ("Vitamin deficiency (B)", "unreadable"),
        ("I, too, see vessels", "unreadable"),
        ("I choose a biopsy.", "unreadable"),
        ("\n".join(f"{letter}) {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)), "several"),
    ],
)
def test_an_answer_that_names_no_option_or_two_is_none(answer, fault):
    assert chosen(answer, OPTIONS) == (None, fault)


def test_a_longer_diagnosis_is_not_taken_for_the_option_within_it():
    assert chosen("Melanoma in situ", ("Melanoma", "Nevus")).place is None
    assert chosen("Not melanoma", ("Melanoma", "Nevus")).place is None


def test_a_letter_and_an_option_are_not_read_as_one_word():
    options = ("typical", "absent", "atypical")
    assert chosen("A) typical", options).place == chosen("A typical", options).place == 0
    assert chosen("atypical", options).place == 2
    assert question(asked(*options), "A) typical").right == 0


def test_without_letters_only_whole_texts_count():
    assert chosen("A", ("A1", "B1"), lettered=False).place is None
    assert chosen('"b1"', ("A1", "B1"), lettered=False).place == 1
    groups = ("Neoplasms", "Infections")
    assert chosen('The category is "Neoplasms".', groups, lettered=False).place == 0
    assert chosen("The category is Neoplasms.", groups, lettered=False).place == 0
    assert chosen('It is not "Neoplasms" but “Infections”.', groups, lettered=False).place == 1
    assert chosen('"Neoplasms" and "Infections"', groups, lettered=False) == (None, "several")


def test_of_two_options_with_one_text_only_the_letter_tells_which():
    assert chosen("Cyst", ("Cyst", "Cyst", "Milia")).place is None
    assert chosen("B) Cyst", ("Cyst", "Cyst", "Milia")).place == 1


@pytest.mark.parametrize("count", [2, 4, 8, 25, 26])
def test_every_letter_is_read_in_question_and_answer(count):
    labels = [f"Disease {number}" for number in range(count)]
    for place, label in enumerate(labels):
        letter = ascii_uppercase[place]
        found = question(asked(*labels), f"{letter}) {label}")
        assert (found.options, found.right) == (tuple(labels), place)
        assert chosen(letter, labels).place == chosen(f"{letter.lower()}) {label}", labels).place == place


@pytest.mark.parametrize(
    ("text", "reference", "reason"),
    [
        ("Describe the lesion.", "A nevus.", "no_options"),
        (asked("Only one"), "A) Only one", "no_options"),
        (asked("Nevus", "Cyst"), "C) Milia", "answer_not_an_option"),
        (asked("Nevus", "Cyst"), "A) Cyst", "answer_not_an_option"),
        (asked("Nevus", "Cyst"), "none of them", "answer_not_an_option"),
    ],
)
def test_a_row_without_options_or_without_a_right_one_is_refused(text, reference, reason):
    with pytest.raises(Reject) as verdict:
        question(text, reference)
    assert verdict.value.reason == reason


def test_options_are_the_last_lettered_lines_and_letters_before_them_are_words():
    text = "A) Look at the network.\nB) Then choose.\nA) Absent\nB) Typical\n(C) Atypical"
    assert question(text, "C").options == ("Absent", "Typical", "Atypical")


@pytest.mark.parametrize("name", DERM7PT_FIELDS)
def test_the_field_of_a_checklist_question_is_told_by_its_options_and_words(name):
    options = tuple(value.capitalize() for value in DERM7PT_FIELDS[name])
    asked_about = Question(text=f"How are the {name.lower()} characterized?", options=options, right=0)
    assert field(asked_about) == name
    assert field(Question(text="Which?", options=("Plaque", "Scale"), right=0)) is None


@given(st.text(max_size=300), st.booleans())
def test_any_text_can_be_read(text, lettered):
    choice = chosen(text, OPTIONS, lettered=lettered)
    assert (choice.place is None) == (choice.fault is not None)


@pytest.mark.parametrize("piece", ["A) x\n", "answer is ", "{", "\\boxed", "<a>", "(", "A ", "option "])
def test_long_answers_take_linear_time(piece):
    start = time.process_time()
    chosen(piece * 100_000, OPTIONS)
    assert time.process_time() - start < 3
