"""The teacher on an engine of our own: a model that knows nothing still answers under the schema."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from actors.annotator import pool_teacher
from dermo_ray.asking.answers import Answer
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


def test_a_pool_that_no_setting_describes_is_refused(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://localhost/v1", "model": "m"}
    settings = TeacherSettings.model_validate({"endpoint": endpoint, "cache": tmp_path / "cache.sqlite"})

    async def work() -> None:
        async with pool_teacher(settings):
            pass

    with pytest.raises(ValueError, match="no pool"):
        asyncio.run(work())
