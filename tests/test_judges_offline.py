"""The offline comparison: text by its words, morphology by the vocabularies, diagnoses by the taxonomy."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.bench.judges import Judgement, OpenTask, compare_offline
from dermo_ray.bench.judges.offline import diagnosis_similarity, longest_common_subsequence, rouge_l, words
from dermo_ray.bench.tasks.open_ended import parts
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
MORPH = '<morph>{"morphological_features_skincon": ["Plaque", "Scale"]}</morph>'
HALF_MORPH = '<morph>{"morphological_features_skincon": ["Plaque", "Bulla"]}</morph>'
REFERENCES: dict[OpenTask, str] = {
    "t1.1": "A red plaque with silvery scale.",
    "t1.2": f"{MORPH}\nA red plaque with silvery scale.",
    "t3.1": "<reasoning>Silvery scale on a plaque.</reasoning><final_diagnosis>Psoriasis</final_diagnosis>",
    "t3.2": f"<reasoning>Silvery scale.</reasoning>\n{MORPH}\n<final_diagnosis>Psoriasis</final_diagnosis>",
}


def compared(task: OpenTask, reference: str, answer: str) -> Judgement:
    return compare_offline(task, parts(answer), parts(reference), TAXONOMY)


def table_lcs(first: list[str], second: list[str]) -> int:
    """The longest common subsequence by the table of its prefixes."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


WORDS = st.lists(st.sampled_from("abcd"), max_size=80)


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_that_of_the_table(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == table_lcs(first, second)


def test_rouge_l_by_hand() -> None:
    # common: the lesion is red; 4 of 5 and 4 of 6
    stated, reference = words("the lesion there is red"), words("the flat lesion is dark red")
    assert rouge_l(stated, reference) == pytest.approx(2 * 4 / 11)
    assert rouge_l(reference, reference) == 1
    assert rouge_l([], reference) == rouge_l(stated, []) == 0


def test_words_have_letters_and_digits_in_one_case() -> None:
    assert words("Größe: 3-mm, left_open.") == ["grösse", "3", "mm", "left", "open"]


@pytest.mark.parametrize("task", list(REFERENCES))
def test_the_reference_itself_scores_100_and_silence_0(task: OpenTask) -> None:
    reference = REFERENCES[task]
    itself = compared(task, reference, reference)
    assert itself.score == pytest.approx(100)
    assert set(itself.parts.values()) == {100.0}
    assert itself.method == "offline"
    assert compared(task, reference, " \n").score == 0


def test_every_part_by_hand() -> None:
    answer = f"<reasoning>Silvery blisters.</reasoning>{HALF_MORPH}<final_diagnosis>Lichen Planus</final_diagnosis>"
    found = compared("t3.2", REFERENCES["t3.2"], answer)
    diagnosis = 100 * TAXONOMY.similarity("Lichen Planus", "Psoriasis")
    assert 0 < diagnosis < 100
    assert found.parts == {"text": 50.0, "morphology": 50.0, "diagnosis": pytest.approx(diagnosis)}
    assert found.score == pytest.approx(0.33 * 50 + 0.33 * diagnosis + 0.34 * 50)


def test_a_part_that_an_answer_lacks_is_wrong_and_one_that_the_reference_lacks_is_left_out() -> None:
    plain = "A red plaque with silvery scale."
    assert compared("t1.2", REFERENCES["t1.2"], plain).parts == {
        "text": 100.0,
        "morphology": 0.0,
    }
    assert compared("t1.2", plain, REFERENCES["t1.2"]).parts == {"text": 100.0}
    with pytest.raises(ValueError, match="needs one of"):
        compared("t1.1", "...", plain)


def test_diagnoses_outside_the_taxonomy_are_equal_only_to_themselves() -> None:
    assert diagnosis_similarity("nevus of  Nowhere", "Nevus of nowhere", TAXONOMY) == 1
    assert diagnosis_similarity("Nevus of Elsewhere", "Nevus of nowhere", TAXONOMY) == 0
    assert diagnosis_similarity("mole", "Melanocytic Nevus", TAXONOMY) == 1
    assert diagnosis_similarity(None, "Psoriasis", TAXONOMY) == 0


def test_the_whole_benchmark_is_compared_within_seconds() -> None:
    text = " ".join(f"word{n % 97}" for n in range(300))
    start = time.process_time()
    for n in range(900):
        compared("t3.2", REFERENCES["t3.2"].replace("Silvery", f"{text} {n}"), text)
    assert time.process_time() - start < 5
