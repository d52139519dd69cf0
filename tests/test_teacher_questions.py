"""What a teacher is asked and under what its answers are kept."""

import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from dermo_ray.asking.cache import opened
from dermo_ray.config.asking import EndpointSettings
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.ask import Picture
from dermo_ray.data.teacher.questions import question
from dermo_ray.morphology import Morphology

MORPHOLOGY = Morphology("skincon", features=frozenset({"Plaque", "Scale"}))
SAMPLE = StoredSample(
    id="derm-0",
    source="derm",
    group="derm-0",
    modality="clinical",
    image="0.png",
    label="Psoriasis",
    morphology=None,
    annotation=None,
)


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64)])
def test_a_picture_larger_than_the_limit_is_scaled_down(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", size).save(path)
    shown = Picture.read(path, 64)
    assert max(Image.open(io.BytesIO(shown.data)).size) == 64
    assert shown.media_type == ("image/png" if size == (64, 64) else "image/jpeg")
    assert shown == Picture.read(path, 64)


def test_an_answer_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    script = f"""
import os, pathlib, signal
from dermo_ray.asking.answers import Answer
from dermo_ray.asking.cache import Provenance, Record, opened
with opened(pathlib.Path({str(path)!r})) as cache:
    cache.put("key", Record(Answer("text", 1, 2), Provenance("model", "version", "date", "endpoint")))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with opened(path) as cache:
        kept = cache.get("key")
    assert kept is not None
    assert kept.answer.text == "text"


def test_what_an_answer_depends_on_is_in_its_key(tmp_path: Path) -> None:
    endpoint = {"base_url": "http://localhost/v1", "model": "m"}
    settings = TeacherSettings.model_validate({"endpoint": endpoint, "cache": tmp_path / "cache.sqlite"})
    base = question("reasoning", SAMPLE, settings, MORPHOLOGY)
    assert base == question("reasoning", replace(SAMPLE, id="another", group="another"), settings, MORPHOLOGY)
    others = [
        question("reasoning", replace(SAMPLE, image="1.png"), settings, MORPHOLOGY),
        question("reasoning", replace(SAMPLE, label="Lichen Planus"), settings, MORPHOLOGY),
        question("reasoning", SAMPLE, settings, Morphology("skincon")),
        question("observation", SAMPLE, settings),
        question("observation", replace(SAMPLE, modality="dermoscopic"), settings),
    ]
    for path in ("a/model", "b/model"):  # one name, two models
        pool = {"model": {"path": tmp_path / path}}
        local = TeacherSettings.model_validate({"pool": pool, "cache": tmp_path / "cache.sqlite"})
        others.append(question("reasoning", SAMPLE, local, MORPHOLOGY))
    keys = {base.key, *(other.key for other in others)}
    assert len(keys) == 1 + len(others)
    assert question("observation", SAMPLE, settings) == question("observation", replace(SAMPLE, label=None), settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": None},
        {"pool": {"model": {"path": "model"}}},
        {"fields": []},
        {"endpoint": EndpointSettings(base_url="http://x/v1", model="m"), "filters": {"min_words": 9, "max_words": 8}},
    ],
    ids=["no teacher", "two teachers", "no field", "no length"],
)
def test_settings_that_can_not_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    values = {"endpoint": {"base_url": "http://x/v1", "model": "m"}, "cache": tmp_path / "cache.sqlite"}
    TeacherSettings.model_validate(values)
    with pytest.raises(ValidationError):
        TeacherSettings.model_validate(values | changes)
