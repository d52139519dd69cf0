"""The authors' scoring rules, defects included, beside ours: every figure is worked by hand from their scripts."""

import pytest

from dermo_ray.bench import compat
from dermo_ray.bench.tasks import Answer, BenchItem, Facts, Question, aggregate, score_all


def item(name: str, task: str = "t2.1", right: int = 2, **facts) -> BenchItem:
    options = ("Nevus", "Melanoma", "Cyst")
    return BenchItem(
        id=f"{task}/{name}",
        task=task,
        images=(),
        questions=(Question(text="Which?", options=options, right=right),),
        reference=f"{'ABC'[right]}) {options[right]}",
        facts=Facts(**facts),
    )


def result(items: list[BenchItem], texts: list[str | None], *, compat: bool = True):
    answers = [Answer(item=i.id, texts=(text,)) for i, text in zip(items, texts, strict=True) if text is not None]
    return aggregate(items, score_all(items, answers, compat=compat), compat=compat)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("C", True),
        ("C) Cyst", True),
        ("Certainly: it is a nevus", True),
        (" C", True),
        ("c", False),
        ("(C)", False),
        ("The answer is C", False),
        ("Cyst", True),
        ("A", False),
        ("", None),
        (" ", None),
    ],
)
def test_choices_are_right_where_the_first_characters_are_equal(answer, same):
    assert compat.same_first_character(answer, "C) Cyst") is same


@pytest.mark.parametrize(
    ("answer", "same"),
    [("C", True), ("C) Nevus", True), ("C. Cyst", False), ("Certainly", False), ("c) Cyst", False), ("", False)],
)
def test_fairness_compares_the_letter_before_its_bracket(answer, same):
    assert compat.same_option_head(answer, "C) Cyst") is same


@pytest.mark.parametrize(
    ("answer", "options", "named"),
    [
        ("Melanoma in situ", ("Nevus", "Melanoma", "Melanoma in situ"), 1),
        ("It is no nevus but a cyst", ("Cyst", "Nevus"), 1),
        ("MELANOMA   in\nsitu", ("Melanoma in situ",), 0),
        ("carcinoma of basal cells", ("Basal Cell Carcinoma",), None),  # 2 of 5 words
        ("carcinoma, basal cell", ("Basal Cell Carcinoma",), 0),  # 3 of 3 words
        ("cell carcinoma", ("Basal Cell Carcinoma", "Nevus"), 0),  # 2 of 3 words
        ("cell", ("Merkel Cell",), None),  # 1 of 2 words: the scripts add 1e-9 below the line
        ("", ("Nevus",), None),
        ("anything", (), None),
    ],
)
def test_walks_take_the_first_option_within_the_text_or_the_one_with_most_words(answer, options, named):
    assert compat.option_named(answer, options) == named


def test_fairness_is_min_over_max_and_one_where_there_is_one_group():
    assert compat.fairness_score({"12": 0.8, "34": 0.6, "56": 0.4}) == pytest.approx(0.5)
    assert compat.fairness_score({"12": 0.0, "56": 0.0}) == 0.0
    assert compat.fairness_score({"unknown": 0.1}) == 1.0
    assert compat.fairness_score({}) == 1.0


def test_answers_beyond_the_first_character_are_read_by_us_alone():
    items = [item("1"), item("2"), item("3"), item("4")]
    said = ["The answer is C.", "Certainly a nevus: A", "c) Cyst", "C"]
    assert result(items, said).value == 0.5
    assert result(items, said, compat=False).value == 0.75


def test_empty_and_missing_answers_do_not_count_for_the_authors_and_are_wrong_for_us():
    items = [item("1"), item("2"), item("3")]
    theirs, ours = result(items, ["C", "", None]), result(items, ["C", "", None], compat=False)
    assert (theirs.value, theirs.items, theirs.skipped) == (1.0, 1, 2)
    assert (ours.value, ours.items, ours.skipped) == (pytest.approx(1 / 3), 3, 0)
    assert ours.faults == {"no_answer": 2}


@pytest.mark.parametrize("task", ["t1.3", "t1.4"])
def test_of_rows_with_one_id_the_authors_count_the_last(task):
    items = [item("x", task, source_id="x"), item("x#2", task, source_id="x"), item("y", task, source_id="y")]
    theirs, ours = result(items, ["A", "C", "C"]), result(items, ["A", "C", "C"], compat=False)
    assert (theirs.value, theirs.items, theirs.skipped) == (1.0, 2, 1)
    assert (ours.value, ours.items) == (pytest.approx(2 / 3), 3)


def test_derm7pt_has_the_authors_mean_f1_over_the_letters():
    items = [item(str(n), "t1.3", right=place, concept="Streaks") for n, place in enumerate((0, 0, 1, 2))]
    # A: 1 right, 2 true, 1 answered; B: 1, 1, 2; C: 0, 1, 0; D was only answered
    theirs = result(items, ["A", "B", "B", "D"])
    assert theirs.measures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert "macro_f1" not in result(items, ["A", "B", "B", "D"], compat=False).measures


def test_fairness_of_the_authors_skips_rows_without_a_skin_tone_and_counts_empty_answers():
    items = [item(str(n), "t4", skin_tone=tone) for n, tone in enumerate(["12", "12", "56", "56", None])]
    said = ["C", "C) Cyst", "C", "", "C"]
    theirs, ours = result(items, said), result(items, said, compat=False)
    assert theirs.value == ours.value == 0.5
    assert (theirs.measures["accuracy"], theirs.items, theirs.skipped) == (0.75, 4, 1)
    assert (ours.measures["accuracy"], ours.items) == (0.8, 5)


def test_one_unknown_group_is_perfectly_fair_for_the_authors_and_no_score_for_us():
    items = [item(str(n), "t4", skin_tone=None) for n in range(4)]
    assert result(items, ["A"] * 4).value == 1.0
    ours = result(items, ["A"] * 4, compat=False)
    assert (ours.value, ours.unknown) == (None, {"skin_tone": 4})
    one_group = [item(str(n), "t4", skin_tone="12") for n in range(4)]
    assert result(one_group, ["A"] * 4, compat=False).value is None
