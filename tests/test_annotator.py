"""The teacher on an engine of our own: a model that knows nothing still answers under the schema."""

import asyncio
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_hosts import FakeCluster
from PIL import Image
from ray.exceptions import RayTaskError

from actors.annotator import pool_ask, pool_teacher
from actors.pool import Pool
from dermo_ray.asking.answers import Answer, AskFailed
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.ask import Picture
from dermo_ray.data.teacher.questions import question
from dermo_ray.morphology import DERM7PT_KEY, Morphology

SAMPLE = StoredSample(
    id="derm-0",
    source="derm",
    group="derm-0",
    modality="dermoscopic",
    image="0.png",
    label=None,
    morphology=None,
    annotation=None,
)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> TeacherSettings:
    engine = {"max_model_len": 4096, "max_num_seqs": 4, "cpu_kv_cache_gib": 0.2, "enforce_eager": True}
    pool = {"model": {"path": tiny_model}, "engine": engine}
    return TeacherSettings.model_validate(
        {"pool": pool, "cache": tmp_path / "cache.sqlite", "temperature": 1.0, "max_tokens": 512}
    )


@pytest.mark.slow
def test_a_pool_answers_under_the_schema_and_the_same_when_it_is_asked_again(
    settings: TeacherSettings, tmp_path: Path, ray_cluster: None
) -> None:
    Image.new("RGB", (96, 96), (200, 150, 140)).save(tmp_path / "0.png")
    picture = Picture.read(tmp_path / "0.png", settings.max_side)
    observation = question("observation", SAMPLE, settings)
    coding = replace(observation, schema=observation.schema["properties"][DERM7PT_KEY])  # has no text without end

    async def work() -> list[Answer]:
        async with pool_teacher(settings) as ask:
            return await asyncio.gather(*(ask(coding, picture, repetition) for repetition in (0, 1, 0)))

    first, other, again = asyncio.run(work())
    for answer in (first, other):
        assert Morphology.from_json({DERM7PT_KEY: json.loads(answer.text)}).closed
        assert answer.input_tokens > answer.output_tokens > 7
    assert again == first != other


@pytest.mark.slow
def test_a_question_that_is_too_long_for_the_engine_has_failed_alone(
    settings: TeacherSettings, tmp_path: Path, ray_cluster: None
) -> None:
    Image.new("RGB", (96, 96), (200, 150, 140)).save(tmp_path / "0.png")
    picture = Picture.read(tmp_path / "0.png", settings.max_side)
    asked = question("description", SAMPLE, settings, Morphology("derm7pt"))
    longer = replace(asked, prompt=asked.prompt * 40)

    async def work() -> Answer:
        async with pool_teacher(settings.model_copy(update={"max_tokens": 8})) as ask:
            with pytest.raises(AskFailed, match=r"^refused: .*maximum context length is 4096 tokens") as refused:
                await ask(longer, picture, 0)
            assert "\n" not in str(refused.value)
            return await ask(asked, picture, 0)

    assert asyncio.run(work()).output_tokens > 0


class Teacher:
    """A worker whose answers the test decides."""

    def __init__(self, answer: Answer | Exception | None) -> None:
        self.given = answer

    async def start(self) -> None:
        return None

    async def answer(self, *question: Any) -> Answer:
        if self.given is None:
            await asyncio.sleep(60)
        if isinstance(self.given, Exception):
            raise self.given
        assert self.given is not None
        return self.given


def asked_of(answers: list[Answer | Exception | None], deadline: float = 0.05) -> list[Answer | str]:
    """What comes of asking as many questions as there are workers in turn, of a pool of one."""
    settings = TeacherSettings.model_validate(
        {"pool": {"model": {"path": "m"}}, "cache": "cache", "deadline": deadline, "max_tokens": 8}
    )
    asked = question("description", SAMPLE, settings, Morphology("derm7pt"))

    async def work() -> list[Answer | str]:
        workers = iter(answers)
        pool = Pool("teacher", PoolSettings(), FakeCluster(lambda: Teacher(next(workers))), start_timeout=5)
        outcomes: list[Answer | str] = []
        try:
            await pool.open()
            ask = pool_ask(pool, settings)
            for _ in range(2):
                try:
                    outcomes.append(await ask(asked, Picture(b"", "image/png"), 0))
                except AskFailed as failure:
                    outcomes.append(failure.reason)
        finally:
            await pool.close()
        return outcomes

    return asyncio.run(work())


def test_a_question_that_no_worker_answers_in_time_has_failed_alone() -> None:
    answer = Answer("text", 1, 1)
    assert asked_of([None, None, answer]) == ["no_worker_answered", answer]


def test_a_refusal_that_comes_back_through_ray_is_one_line_under_its_own_name() -> None:
    refusal = pickle.loads(pickle.dumps(AskFailed("refused", "too long")))
    assert (refusal.reason, str(refusal)) == ("refused", "refused: too long")
    through_ray = RayTaskError("answer", "Traceback\n  of many lines", refusal).as_instanceof_cause()
    assert asked_of([through_ray]) == ["refused", "refused"]
    with pytest.raises(RayTaskError, match="no memory"):
        asked_of([RayTaskError("answer", "Traceback\n no memory", MemoryError("no memory")).as_instanceof_cause()])


def test_a_pool_that_no_setting_describes_is_refused(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://localhost/v1", "model": "m"}
    settings = TeacherSettings.model_validate({"endpoint": endpoint, "cache": tmp_path / "cache.sqlite"})

    async def work() -> None:
        async with pool_teacher(settings):
            pass

    with pytest.raises(ValueError, match="no pool"):
        asyncio.run(work())
