"""Annotation by a teacher: through real HTTP to a stub server, what is asked, kept, refused and counted."""

import asyncio
import base64
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_stub import Reply, StubServer, completion, error, question_of, serving
from PIL import Image

from dermo_ray.asking.cache import opened
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.annotate import AnnotationReport, annotate
from dermo_ray.data.teacher.endpoint import endpoint_teacher
from dermo_ray.data.teacher.filters import FILTERS, SCHEMA_VIOLATION
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_KEY, Morphology
from dermo_ray.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
KEY = "sk-very-secret-0123456789"
MORPHOLOGY = Morphology("skincon", features=frozenset({"Plaque", "Scale"}))
DESCRIPTION = "One sharply bordered red plaque of three centimetres, covered by silvery scale, on pale skin."
REASONING = "The sharply bordered plaque with silvery scale is typical; eczema is less sharply bordered. Psoriasis."
CODED = {
    "detailed_description": DESCRIPTION,
    SKINCON_KEY: ["Plaque", "Scale"],
    "morphological_features_others": [],
}
ANSWERS = {
    "observation": CODED,
    "description": {"detailed_description": DESCRIPTION},
    "reasoning": {"reasoning": REASONING, "final_diagnosis": "Psoriasis"},
}


def well(body: dict[str, Any], _count: int) -> Reply:
    """Answers every question as one would wish."""
    return completion(json.dumps(ANSWERS[question_of(body)[0]]))


def saying(**changes: Any) -> Callable[[dict[str, Any], int], Reply]:
    """Answers well but for some values."""

    def respond(body: dict[str, Any], _count: int) -> Reply:
        answer = ANSWERS[question_of(body)[0]]
        return completion(json.dumps(answer | {key: changes[key] for key in changes.keys() & answer.keys()}))

    return respond


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the pictures 0.png to 4.png."""
    for number in range(5):
        Image.new("RGB", (40, 30), (200, 150, 10 * number)).save(tmp_path / f"{number}.png")
    return tmp_path


def sample(number: int = 0, **changes: Any) -> StoredSample:
    bare = StoredSample(
        id=f"derm-{number}",
        source="derm",
        group=f"derm-{number}",
        modality="clinical",
        image=f"{number}.png",
        label="Psoriasis",
        morphology=None,
        annotation=None,
    )
    return replace(bare, **changes)


def teacher(folder: Path, base_url: str = "http://127.0.0.1:9/v1", **changes: Any) -> TeacherSettings:
    endpoint = {"base_url": base_url, "model": "stub-model", **changes.pop("endpoint", {})}
    return TeacherSettings.model_validate(
        {"endpoint": endpoint, "cache": folder / "cache.sqlite", "filters": {"min_words": 3}} | changes
    )


def run(
    respond: Callable[[dict[str, Any], int], Reply],
    folder: Path,
    samples: list[StoredSample] | None = None,
    **changes: Any,
) -> tuple[AnnotationReport, StubServer]:
    """Annotate the samples (one bare one by default) with a stub that responds so."""

    async def work(settings: TeacherSettings) -> AnnotationReport:
        async with endpoint_teacher(settings) as ask:
            return await annotate(samples or [sample()], folder, settings, ask, TAXONOMY, lambda report: None)

    with serving(respond) as stub:
        return asyncio.run(work(teacher(folder, stub.base_url, **changes))), stub


def test_an_image_gets_what_it_lacks_each_with_its_provenance(images: Path) -> None:
    report, stub = run(well, images)
    annotation = report.annotations["derm-0"]
    assert annotation.morphology == MORPHOLOGY
    assert annotation.description == DESCRIPTION
    assert annotation.reasoning == REASONING
    sources = json.loads(annotation.annotator)
    assert sources.keys() == {"morphology", "description", "reasoning"}
    assert sources["morphology"] == sources["description"]
    for source in sources.values():
        assert source["model"] == "stub-model"
        assert source["backend"] == "endpoint"
        assert re.fullmatch(r"[0-9a-f]{12}", source["prompt"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", source["date"])
    assert len(stub.bodies) == report.requests == report.asked == 2
    assert (report.input_tokens, report.output_tokens) == (200, 20)
    assert report.accepted == {"morphology": 1, "description": 1, "reasoning": 1}
    assert not report.missing
    assert json.loads(json.dumps(report.counts()))["accepted"] == report.accepted


def test_what_is_there_is_not_asked_for(images: Path) -> None:
    annotated = sample(morphology=MORPHOLOGY, annotation=MORPHOLOGY)
    complete = replace(annotated, id="derm-1", description="Written by a reader.", reasoning="By a reader.")
    report, stub = run(well, images, [annotated, complete])
    assert [question_of(body)[0] for body in stub.bodies] == ["description", "reasoning"]
    assert report.annotations.keys() == {"derm-0"}
    assert report.annotations["derm-0"].morphology is None
    assert report.images == 2


def test_only_the_fields_that_are_asked_for_are_added(images: Path) -> None:
    report, _ = run(well, images, fields=["description"])
    annotation = report.annotations["derm-0"]
    assert (annotation.morphology, annotation.description, annotation.reasoning) == (None, DESCRIPTION, None)


def test_an_observation_does_not_know_the_label_and_a_reasoning_knows_label_and_morphology(images: Path) -> None:
    _, stub = run(well, images)
    prompts = {name: prompt for name, prompt, _ in map(question_of, stub.bodies)}
    assert "Psoriasis" not in json.dumps(stub.bodies[0])
    assert "Psoriasis" in prompts["reasoning"]
    assert json.dumps(MORPHOLOGY.to_json()) in prompts["reasoning"]
    assert "$" not in "".join(prompts.values())


def test_without_a_label_or_a_morphology_there_is_no_reasoning(images: Path) -> None:
    unlabelled = [sample(label=None), sample(1)]
    report, stub = run(well, images, unlabelled, fields=["reasoning"])
    assert not stub.bodies
    assert report.missing == {"reasoning": 2}


def test_a_request_is_the_same_every_time_and_shows_the_picture(images: Path) -> None:
    (_, first), (_, second) = (run(well, images, cache=images / name) for name in ("a.sqlite", "b.sqlite"))
    assert first.bodies == second.bodies
    body = first.bodies[0]
    assert body["model"] == "stub-model"
    assert body["response_format"]["json_schema"]["strict"] is True
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == (images / "0.png").read_bytes()


def test_further_fields_of_a_request_are_added_and_null_leaves_one_out(images: Path) -> None:
    extra = {"extra_body": {"max_tokens": None, "max_completion_tokens": 5}}
    _, stub = run(well, images, endpoint=extra)
    assert "max_tokens" not in stub.bodies[0]
    assert stub.bodies[0]["max_completion_tokens"] == 5


def test_a_second_run_asks_nothing_and_gives_the_same(images: Path) -> None:
    samples = [sample(number) for number in range(5)]
    first, _ = run(well, images, samples)
    second, stub = run(well, images, samples)
    assert not stub.bodies
    assert second.annotations == first.annotations
    assert (second.cached, second.asked, second.input_tokens) == (10, 0, 0)


def test_an_answer_is_kept_when_the_run_is_stopped(images: Path) -> None:
    def respond(body: dict[str, Any], count: int) -> Reply:
        return well(body, count) if count < 3 else error(401)

    with pytest.raises(UserError, match="refuses the key"):
        run(respond, images, [sample(0), sample(1)], concurrency=1)
    report, stub = run(well, images, [sample(0), sample(1)])
    assert report.cached == 3
    assert len(stub.bodies) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.9},
        {"max_side": 20},
        {"endpoint": {"model": "other-model"}},
        {"endpoint": {"extra_body": {"reasoning_effort": "low"}}},
    ],
)
def test_another_way_of_asking_is_another_question(images: Path, changes: dict[str, Any]) -> None:
    run(well, images)
    _, stub = run(well, images, **changes)
    assert len(stub.bodies) == 2


def test_other_filters_apply_to_kept_answers(images: Path) -> None:
    run(well, images)
    report, stub = run(well, images, filters={"min_words": 100})
    assert not stub.bodies
    assert report.dropped["description"] == report.dropped["reasoning"] == {"too_short": 1}
    assert report.annotations["derm-0"].morphology == MORPHOLOGY


def test_a_cache_is_used_by_one_run_at_a_time_and_nothing_else_passes_for_one(images: Path, tmp_path: Path) -> None:
    with opened(images / "cache.sqlite"), pytest.raises(UserError, match="another run"):
        run(well, images)
    text = tmp_path / "notes.txt"
    text.write_text("no data base, but long enough to be read as the header of one" * 20)
    with pytest.raises(UserError, match="no cache of answers"), opened(text):
        pass


@pytest.mark.parametrize(
    "refusal", [error(429), error(500), error(503), (200, None)], ids=["429", "500", "503", "lost"]
)
def test_a_passing_failure_is_repeated(images: Path, refusal: Reply) -> None:
    def respond(body: dict[str, Any], count: int) -> Reply:
        return refusal if count == 0 else well(body, count)

    report, stub = run(respond, images, fields=["morphology"])
    assert report.annotations["derm-0"].morphology == MORPHOLOGY
    assert len(stub.bodies) == 2
    assert report.requests == 1
    assert not report.failed


def test_a_lasting_failure_is_counted_and_asked_again_by_the_next_run(images: Path) -> None:
    def respond(body: dict[str, Any], count: int) -> Reply:
        return error(429) if count < 3 else well(body, count)

    samples = [sample(0), sample(1)]
    report, _ = run(respond, images, samples, fields=["morphology"], max_retries=2, concurrency=1)
    assert report.failed == {"http_429": 1}
    assert report.missing == {"morphology": 1}
    assert report.annotations.keys() == {"derm-1"}
    again, stub = run(well, images, samples, fields=["morphology"])
    assert again.annotations.keys() == {"derm-0", "derm-1"}
    assert len(stub.bodies) == 1


def test_a_teacher_that_keeps_failing_stops_the_run_in_a_line_that_says_why(images: Path) -> None:
    samples = [sample(number) for number in range(5)]
    with pytest.raises(UserError, match=r"3 questions in a row .*http_400: .*temperature is not supported") as caught:
        run(lambda *_: error(400, "temperature is not supported"), images, samples, give_up_after=3, concurrency=1)
    assert "\n" not in str(caught.value)


def test_a_slow_answer_is_given_up_at_the_deadline(images: Path) -> None:
    def respond(body: dict[str, Any], count: int) -> Reply:
        time.sleep(0.3)
        return well(body, count)

    report, _ = run(respond, images, fields=["morphology"], deadline=0.05)
    assert report.failed == {"timeout": 1}


@pytest.mark.parametrize(
    ("status", "message"), [(401, "refuses the key"), (404, "has no model stub-model")], ids=["key", "model"]
)
def test_a_wrong_key_or_model_stops_at_once(images: Path, status: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(lambda *_: error(status), images)


@pytest.mark.parametrize(
    "body", [{"error": {"message": "overloaded"}}, {"choices": []}, "text", []], ids=["error", "empty", "text", "list"]
)
def test_something_else_than_a_completion_counts_as_a_failure(images: Path, body: Any) -> None:
    report, _ = run(lambda *_: (200, body), images, fields=["morphology"])
    assert report.failed == {"no_completion": 1}


UNFIT = {
    "no_json": "I see a plaque.",
    "cut_off": json.dumps(CODED)[:-5],
    "fenced": f"```json\n{json.dumps(CODED)}\n```",
    "refusal": None,
    "unknown_term": json.dumps(CODED | {SKINCON_KEY: ["Plaque", "Halo"]}),
    "twice": json.dumps(CODED | {SKINCON_KEY: ["Plaque", "plaque"]}),
    "other_schema": json.dumps({k: v for k, v in CODED.items() if k != SKINCON_KEY} | {DERM7PT_KEY: {}}),
    "key_missing": json.dumps({k: v for k, v in CODED.items() if k != "morphological_features_others"}),
    "key_too_many": json.dumps(CODED | {"diagnosis": "Psoriasis"}),
    "no_text": json.dumps(CODED | {"detailed_description": 7}),
    "half_a_character": json.dumps(CODED | {"detailed_description": "\ud83d"}),
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_an_unfit_answer_is_asked_for_again(images: Path, text: str | None) -> None:
    def respond(body: dict[str, Any], count: int) -> Reply:
        return completion(text) if count == 0 else well(body, count)

    report, stub = run(respond, images, fields=["morphology"])
    assert report.annotations["derm-0"].morphology == MORPHOLOGY
    assert len(stub.bodies) == report.requests == 2
    assert report.input_tokens == 200


def test_an_answer_that_stays_unfit_is_counted_and_not_paid_for_again(images: Path) -> None:
    report, stub = run(lambda *_: completion("no JSON \ud83d"), images, max_retries=2)
    assert len(stub.bodies) == 3
    assert report.asked == 1
    assert report.dropped["morphology"] == report.dropped["description"] == {"schema_violation": 1}
    assert report.missing == {"morphology": 1, "description": 1, "reasoning": 1}
    assert not report.annotations
    again, stub = run(well, images, max_retries=2)
    assert not stub.bodies
    assert again.dropped == report.dropped


def test_no_more_than_the_budget_is_asked_and_the_rest_is_counted(images: Path) -> None:
    samples = [sample(number) for number in range(5)]
    report, stub = run(well, images, samples, fields=["morphology"], budget_requests=2, concurrency=4)
    assert len(stub.bodies) == 2
    assert len(report.annotations) == 2
    assert report.over_budget == report.missing["morphology"] == 3
    rest, stub = run(well, images, samples, fields=["morphology"], budget_requests=2)
    assert len(rest.annotations) == 4
    assert rest.cached == len(stub.bodies) == 2


def test_asking_stops_once_the_tokens_are_spent(images: Path) -> None:
    samples = [sample(number) for number in range(5)]
    report, stub = run(well, images, samples, fields=["morphology"], budget_tokens=111, concurrency=1)
    assert len(stub.bodies) == 2  # 110 tokens each
    assert report.over_budget == 3


def test_a_budget_of_nothing_uses_the_cache_alone(images: Path) -> None:
    run(well, images, [sample(0)])
    report, stub = run(well, images, [sample(0), sample(1)], budget_requests=0)
    assert not stub.bodies
    assert report.annotations.keys() == {"derm-0"}
    assert report.over_budget == 1


def test_the_key_is_sent_and_stands_nowhere_else(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STUB_TEACHER_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    named = {"api_key_env": "STUB_TEACHER_KEY"}
    report, stub = run(well, images, endpoint=named)
    assert set(stub.keys) == {f"Bearer {KEY}"}
    with pytest.raises(UserError) as refused:
        run(lambda *_: error(401, f"wrong key {KEY}"), images, [sample(1)], endpoint=named)
    with pytest.raises(UserError) as failed:
        run(lambda *_: error(400, f"no such thing for {KEY}"), images, [sample(1)], endpoint=named, give_up_after=1)
    caches = b"".join(path.read_bytes() for path in images.glob("cache.sqlite*"))
    assert len(caches) > 1000
    told = [str(refused.value), str(failed.value), repr(report), caplog.text, json.dumps(stub.bodies)]
    assert "[key]" in str(failed.value)
    assert not any(KEY in text for text in told)
    assert KEY.encode() not in caches


def test_a_key_that_is_not_in_the_environment_is_named_before_anything_is_sent(images: Path) -> None:
    with pytest.raises(UserError, match="set the environment variable NO_SUCH_KEY"):
        run(well, images, endpoint={"api_key_env": "NO_SUCH_KEY"})


def test_progress_is_told_after_every_image(images: Path) -> None:
    told = []

    async def work(settings: TeacherSettings) -> None:
        async with endpoint_teacher(settings) as ask:
            samples = (sample(number) for number in range(5))
            await annotate(samples, images, settings, ask, TAXONOMY, lambda report: told.append(report.images))

    with serving(well) as stub:
        asyncio.run(work(teacher(images, stub.base_url)))
    assert told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("part", "changes", "name"),
    [
        ("description", {"detailed_description": " \n"}, "empty"),
        ("description", {"detailed_description": "Red plaque."}, "too_short"),
        ("description", {"detailed_description": "red " * 401}, "too_long"),
        ("description", {"detailed_description": "A red plaque <morph> with scale."}, "breaks_format"),
        ("description", {"detailed_description": "A scaly plaque as in psoriasis."}, "names_diagnosis"),
        ("reasoning", {"reasoning": "..."}, "empty"),
        ("reasoning", {"reasoning": "Plaque: psoriasis."}, "too_short"),
        ("reasoning", {"reasoning": "psoriasis " * 401}, "too_long"),
        ("reasoning", {"reasoning": "It is <|im_end|> psoriasis."}, "breaks_format"),
        ("reasoning", {"reasoning": "The sharp border and the scale are typical."}, "diagnosis_not_mentioned"),
        ("reasoning", {"final_diagnosis": "Lichen Planus"}, "other_diagnosis"),
        ("reasoning", {"final_diagnosis": "Psoriasis or Lichen Planus"}, "other_diagnosis"),
        ("reasoning", {"final_diagnosis": "unclear"}, "other_diagnosis"),
    ],
)
def test_each_filter_drops_its_texts_under_its_name(
    images: Path, part: str, changes: dict[str, Any], name: str
) -> None:
    report, _ = run(saying(**changes), images)
    kept = {"morphology", "description", "reasoning"} - {part}
    assert {which: dict(counts) for which, counts in report.dropped.items() if counts} == {part: {name: 1}}
    assert report.accepted == dict.fromkeys(kept, 1)
    assert report.missing == {part: 1}


def test_every_filter_is_tested() -> None:
    (parameters,) = (
        mark.args[1]
        for mark in test_each_filter_drops_its_texts_under_its_name.pytestmark  # type: ignore[attr-defined]
    )
    assert {(part, name) for part, _, name in parameters} == {
        (part, name) for part in FILTERS for name in FILTERS[part]
    }


def test_every_filter_is_explained() -> None:
    page = (Path(__file__).parent.parent / "docs/teacher.md").read_text(encoding="utf-8")
    names = {SCHEMA_VIOLATION} | {name for filters in FILTERS.values() for name in filters}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_paragraphs_of_a_description_become_one(images: Path) -> None:
    report, _ = run(saying(detailed_description="A red plaque.\n\nSilvery scale on it."), images)
    assert report.annotations["derm-0"].description == "A red plaque. Silvery scale on it."


def test_dermoscopic_images_are_coded_in_derm7pt(images: Path) -> None:
    fields = {name: values[0] for name, values in DERM7PT_FIELDS.items()}
    answer = {"detailed_description": DESCRIPTION, DERM7PT_KEY: fields, "morphological_features_others": ["halo"]}
    report, _ = run(
        lambda *_: completion(json.dumps(answer)), images, [sample(modality="dermoscopic")], fields=["morphology"]
    )
    assert report.annotations["derm-0"].morphology == Morphology("derm7pt", fields=fields)


def test_the_cache_is_a_file_that_other_programs_can_read(images: Path) -> None:
    run(well, images)
    with sqlite3.connect(images / "cache.sqlite") as database:
        records = [json.loads(text) for (text,) in database.execute("SELECT record FROM answers")]
    assert {tuple(sorted(record)) for record in records} == {("answer", "provenance")}
