"""The teacher-forced walk down the taxonomy: what is asked next, and what the walk is worth."""

import pytest

from dermo_ray.bench.tasks import Answer, aggregate, begin, next_question, score, score_all
from dermo_ray.bench.tasks.conversation import from_conversation
from dermo_ray.bench.tasks.hierarchy import questions
from dermo_ray.bench.tasks.items import BenchItem, Facts
from dermo_ray.data.samples import Reject
from dermo_ray.records import Turn

DIALOGUE = (
    ('<image>\nWhere does it belong: "Neoplasms", "Infections"?', "Neoplasms"),
    ('Which part of Neoplasms fits: "Malignant", "Benign"?', "Malignant"),
    ('Which is it: "Melanoma", "Melanoma In Situ", "Merkel Cell Carcinoma"?', "Melanoma"),
)


def turns(dialogue=DIALOGUE) -> list[Turn]:
    return [turn for q, a in dialogue for turn in (Turn(from_="human", value=q), Turn(from_="gpt", value=a))]


def walk_item(name: str = "1") -> BenchItem:
    return from_conversation("t2.3", name, ["a.png"], turns(), Facts(label="Melanoma"))


def answered(item: BenchItem, *answers: str):
    walk = begin(item)
    for answer in answers:
        walk = next_question(walk, answer)
    return walk


def test_a_right_walk_asks_every_question_in_turn_and_keeps_what_was_said():
    walk = begin(walk_item())
    assert [turn.value for turn in walk.turns] == [DIALOGUE[0][0]]
    for step, (_, answer) in enumerate(DIALOGUE):
        assert not walk.done
        assert walk.turns[-1].value == (DIALOGUE[step][0])
        walk = next_question(walk, answer)
    assert walk.done
    assert [turn.value for turn in walk.turns[1::2]] == [answer for _, answer in DIALOGUE]
    with pytest.raises(ValueError, match="no further question"):
        next_question(walk, "Melanoma")


def test_after_an_error_the_right_choice_is_told_and_the_walk_goes_on_from_there():
    walk = answered(walk_item(), "Infections")
    assert walk.turns[1].value == "Infections"
    assert walk.turns[2].value == f'That is not right: it is "Neoplasms".\n{DIALOGUE[1][0]}'
    walk = next_question(walk, "Malignant")
    assert walk.turns[-1].value == DIALOGUE[2][0]
    assert next_question(walk, "I give up").done


def test_a_model_that_needs_it_is_told_once_how_to_answer():
    walk = begin(walk_item(), instruct=True)
    assert walk.turns[0].value.startswith(DIALOGUE[0][0])
    assert "quoted options" in walk.turns[0].value
    assert "quoted options" not in next_question(walk, "Neoplasms").turns[-1].value


def test_options_are_what_stands_in_quotes():
    assert questions(turns())[2].options == ("Melanoma", "Melanoma In Situ", "Merkel Cell Carcinoma")
    with pytest.raises(Reject, match="answer_not_an_option"):
        questions(turns([('Which: "A", "B"?', "C")]))


def test_walks_are_worth_what_a_person_counts():
    items = [walk_item(str(number)) for number in range(3)]
    texts = [
        ("Neoplasms", "Malignant", "Melanoma"),
        ("Infections", '"malignant"', "Melanoma in situ"),
        ("Neoplasms",),  # the engine failed after one step
    ]
    scored = [score(item, Answer(item=item.id, texts=said)) for item, said in zip(items, texts, strict=True)]
    assert [verdict.right for verdict in scored] == [(True, True, True), (False, True, False), (True, False, False)]
    assert scored[1].extracted == ("Infections", "Malignant", "Melanoma In Situ")
    result = aggregate(items, scored)
    assert (result.metric, result.value) == ("step_accuracy", pytest.approx(5 / 9))
    assert result.measures == pytest.approx(
        {"step_accuracy": 5 / 9, "avg_corrections": 4 / 3, "pct_zero_correction": 1 / 3}
    )
    assert {step: (tally.right, tally.count) for step, tally in result.by["step"].items()} == {
        "01": (2, 3),
        "02": (2, 3),
        "03": (1, 3),
    }
    assert result.faults == {"no_answer": 2}


def test_a_diagnosis_that_holds_the_right_one_is_wrong_but_for_the_authors_scripts():
    said = ("Neoplasms", "Malignant", "Melanoma in situ")
    item = walk_item()
    assert score(item, Answer(item=item.id, texts=said)).right[2] is False
    assert score(item, Answer(item=item.id, texts=said), compat=True).right[2] is True
    assert "not right" in answered(item, "Neoplasms (Infections?)").turns[-1].value


def test_the_authors_divide_corrections_by_all_rows_of_their_file():
    item = walk_item()
    answers = [Answer(item=item.id, texts=("Infections", "Malignant", "Melanoma"))]
    scored = score_all([item], answers, compat=True)
    theirs = aggregate([item], scored, compat=True, left_out=3)
    assert theirs.measures == pytest.approx(
        {"step_accuracy": 2 / 3, "avg_corrections": 1 / 4, "pct_zero_correction": 0.0}
    )
    ours = aggregate([item], score_all([item], answers), left_out=3)
    assert ours.measures["avg_corrections"] == 1.0
