"""DermoBench's formulas by hand, and which texts of a judge are verdicts."""

import json
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dermo_ray.bench.judges.rubrics import (
    DIAGNOSIS_SIMILARITY,
    SHARES,
    ClaimVerdict,
    Counts,
    DiagnosisGrade,
    OpenTask,
    Verdict,
    combined,
    graded,
    lenient_text_score,
    text_score,
)
from dermo_ray.bench.judges.verdicts import read, verdict_schema

TASKS = get_args(OpenTask)


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        (Counts(supported=10), 100.0),
        (Counts(missing=10), 0.0),
        # recall (5 + 0.5 * 2) / 10 = 0.6, penalty (1 + 1) / 10 = 0.2
        (Counts(supported=5, partial=2, contradicted=1, missing=2, incorrect_extras=1), 50.0),
        # recall 0.75, penalty no more than 1 with 9 / 4
        (Counts(supported=3, missing=1, incorrect_extras=9), 25.0),
        # recall 0.25, penalty 0.75: never below 0
        (Counts(supported=1, contradicted=3), 0.0),
    ],
)
def test_the_text_score_is_recall_less_half_the_penalty(counts: Counts, score: float) -> None:
    assert text_score(counts) == pytest.approx(score)


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        (Counts(supported=10), 100.0),
        # recall (4 + 0.6 * 2 + 0.3) / 10 = 0.55; 0.5 * 0.7 * 0.1 + 0.2 * 0.4 * 0.2 + 0.2 * 0.5 * 0.3 = 0.081
        (Counts(supported=4, partial=2, vague=1, contradicted=1, missing=2, incorrect_extras=3), 46.9),
        (Counts(missing=5), 0.0),
        # recall 1; 0.2 * 0.5 * 4 / 1 = 0.4: extras count for more than the claims there are
        (Counts(supported=1, incorrect_extras=4), 60.0),
        # recall 0.3; 0.5 * 0.7 * 1 / 2 = 0.175
        (Counts(partial=1, contradicted=1), 12.5),
    ],
)
def test_the_lenient_text_score_by_hand(counts: Counts, score: float) -> None:
    assert lenient_text_score(counts) == pytest.approx(score)


def test_the_similarity_grades_are_those_of_the_paper() -> None:
    assert list(DIAGNOSIS_SIMILARITY.values()) == [1.0, 0.85, 0.7, 0.5, 0.3, 0.1, 0.0]
    assert tuple(DIAGNOSIS_SIMILARITY) == get_args(DiagnosisGrade)


HALF = Counts(supported=1, missing=1)


@pytest.mark.parametrize(
    ("task", "verdict", "score"),
    [
        ("t1.1", Verdict(HALF), 50.0),
        ("t1.2", Verdict(HALF, morphology=0.8), 0.5 * 50 + 0.5 * 80),
        ("t3.1", Verdict(HALF, diagnosis="parent_or_child"), 0.5 * 50 + 0.5 * 85),
        # reasoning 100 * (0.5 - 0.2 * 0.4 * 0.5) = 46
        (
            "t3.2",
            Verdict(HALF, morphology=0.25, diagnosis="exact_or_synonym"),
            0.66 * (0.5 * 46 + 0.5 * 100) + 0.34 * 25,
        ),
    ],
)
def test_the_score_of_each_task_by_hand(task: OpenTask, verdict: Verdict, score: float) -> None:
    assert combined(task, graded(task, verdict)) == pytest.approx(score)


@given(st.lists(st.integers(0, 30), min_size=6, max_size=6).filter(lambda counts: any(counts[:5])))
def test_every_score_lies_between_0_and_100(counts: list[int]) -> None:
    for score in (text_score(Counts(*counts)), lenient_text_score(Counts(*counts))):
        assert 0 <= score <= 100


def test_without_a_claim_there_is_no_score() -> None:
    for bad in ({}, {"incorrect_extras": 2}, {"supported": 2, "missing": -1}):
        with pytest.raises(ValueError, match="counts must be"):
            Counts(**bad)


def test_a_part_that_does_not_apply_leaves_its_share_to_the_others() -> None:
    assert combined("t3.2", {"text": 40.0, "diagnosis": 80.0}) == pytest.approx(60)
    assert combined("t1.2", {"morphology": 30.0}) == pytest.approx(30)
    with pytest.raises(ValueError, match="needs one of text, morphology"):
        combined("t1.2", {"diagnosis": 100.0})


def test_the_shares_of_a_task_add_up() -> None:
    assert [sum(SHARES[task].values()) for task in TASKS] == pytest.approx([1, 1, 1, 1])


def verdict_json(task: OpenTask, **changes: Any) -> dict[str, Any]:
    claims = [{"claim": "A plaque.", "verdict": "supported"}, {"claim": "Scale.", "verdict": "missing"}]
    value = {
        "claims": claims,
        "incorrect_extras": ["A bulla."],
        "morphology_similarity": 0.5,
        "diagnosis": "wrong_system",
    }
    return {key: value[key] for key in verdict_schema(task)["properties"]} | changes


@pytest.mark.parametrize("task", TASKS)
def test_a_verdict_is_counted(task: OpenTask) -> None:
    verdict = read(json.dumps(verdict_json(task)), task)
    assert verdict is not None
    assert verdict.counts == Counts(supported=1, missing=1, incorrect_extras=1)
    assert (verdict.morphology is not None) == ("morphology" in SHARES[task])
    assert (verdict.diagnosis is not None) == ("diagnosis" in SHARES[task])


def test_no_more_than_25_claims_count() -> None:
    claims = [{"claim": str(n), "verdict": "supported" if n < 25 else "missing"} for n in range(40)]
    verdict = read(json.dumps(verdict_json("t1.1", claims=claims)), "t1.1")
    assert verdict is not None
    assert verdict.counts == Counts(supported=25, incorrect_extras=1)


def test_vague_is_a_verdict_everywhere_and_worth_something_under_the_lenient_rubric_alone() -> None:
    claims = [{"claim": "A plaque.", "verdict": "vague"}, {"claim": "It is red.", "verdict": "supported"}]
    texts = {}
    for task in TASKS:
        verdict = read(json.dumps(verdict_json(task, claims=claims, incorrect_extras=[])), task)
        assert verdict is not None
        texts[task] = graded(task, verdict)["text"]
    assert texts == pytest.approx({"t1.1": 50, "t1.2": 50, "t3.1": 50, "t3.2": 65})


@pytest.mark.parametrize(
    "text",
    ["", "fine", "[]", "[" * 100_000, "null", "{}", json.dumps(verdict_json("t3.2"))[:-2]]
    + [
        json.dumps(verdict_json("t3.2", **{key: bad}))
        for key, bads in {
            "claims": [
                None,
                [],
                {},
                ["A plaque."],
                [{"claim": 3, "verdict": "missing"}],
                [{"claim": "x", "verdict": []}],
            ],
            "incorrect_extras": [None, 3, [3]],
            "morphology_similarity": [None, "0.5", True, -0.1, 1.01, 10**400, float("nan"), float("inf")],
            "diagnosis": [None, [], "Psoriasis", "Exact"],
            "more": [1],
        }.items()
        for bad in bads
    ],
)
def test_what_is_no_verdict_is_not_read(text: str) -> None:
    assert read(json.dumps(verdict_json("t3.2")), "t3.2") is not None
    assert read(text, "t3.2") is None


@pytest.mark.parametrize("task", TASKS)
@hypothesis_settings(max_examples=30)
@given(data=st.data())
def test_what_fits_the_schema_and_names_a_claim_is_read(data: st.DataObject, task: OpenTask) -> None:
    schema = verdict_schema(task)
    jsonschema.Draft202012Validator.check_schema(schema)
    claim = st.fixed_dictionaries({"claim": st.text(max_size=5), "verdict": st.sampled_from(get_args(ClaimVerdict))})
    parts: dict[str, st.SearchStrategy[Any]] = {
        "claims": st.lists(claim, min_size=1, max_size=30),
        "incorrect_extras": st.lists(st.text(max_size=5), max_size=3),
        "morphology_similarity": st.floats(0, 1),
        "diagnosis": st.sampled_from(list(DIAGNOSIS_SIMILARITY)),
    }
    value = data.draw(st.fixed_dictionaries({key: parts[key] for key in schema["properties"]}))
    assert jsonschema.Draft202012Validator(schema).is_valid(value)
    assert read(json.dumps(value), task) is not None


def test_schemas_are_ones_that_strict_modes_take() -> None:
    def check(node: dict[str, Any]) -> None:
        assert node.keys() <= {"type", "properties", "required", "additionalProperties", "items", "enum"}
        if node["type"] == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        for below in [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]:
            check(below)

    for task in TASKS:
        check(verdict_schema(task))
