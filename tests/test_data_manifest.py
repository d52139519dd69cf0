"""What makes a prepared folder another one, and what leaves it as it is."""

from pathlib import Path
from typing import Any

import pytest

from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data import ingest
from dermo_ray.data.manifest import settings_key, unfinished
from dermo_ray.data.samples import Entry
from dermo_ray.taxonomy import Taxonomy

ENDPOINT = {"base_url": "http://one/v1", "model": "m", "api_key_env": "ONE"}
POOL = {"model": {"path": "/models/teacher"}}


def key(out: Path, teacher: dict[str, Any] | None = None, **changes: Any) -> str:
    settings = {"source": "phantoms", "count": 1, "out": out}
    if teacher is not None:
        settings["teacher"] = {"cache": out.with_name("answers"), **teacher}
    config = PrepareConfig.model_validate(settings | changes)
    return settings_key(config, {"phantoms": [Entry("phantoms_0", {"seed": 0})]}, Taxonomy.load())


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": ENDPOINT | {"base_url": "http://two/v1", "api_key_env": None}},
        {"max_retries": 9, "timeout": 1, "deadline": 2, "give_up_after": 3, "concurrency": 4},
        {"budget_requests": 5, "budget_tokens": 6},
    ],
)
def test_where_and_how_persistently_a_teacher_is_asked_makes_no_other_corpus(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert key(tmp_path, {"endpoint": ENDPOINT} | changes) == key(tmp_path, {"endpoint": ENDPOINT})


def test_a_pool_of_another_size_or_a_moved_model_makes_no_other_corpus(tmp_path: Path) -> None:
    moved = {"path": tmp_path / "teacher"}
    engine = {"max_num_seqs": 3, "gpu_memory_utilization": 0.5}
    pool = {"model": moved, "workers": 3, "gpus_per_worker": 1, "engine": engine, "heartbeat": 5}
    assert key(tmp_path, {"pool": pool}) == key(tmp_path, {"pool": POOL})


def test_what_stops_a_run_makes_no_other_corpus(tmp_path: Path) -> None:
    assert key(tmp_path, min_images=3, unmapped="stop", export="llava", replace=True) == key(tmp_path)


def test_another_teacher_filter_or_way_of_reading_images_makes_another_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = {"endpoint": ENDPOINT}
    others: list[dict[str, Any]] = [
        {"endpoint": ENDPOINT | {"model": "n"}},
        {"endpoint": ENDPOINT | {"extra_body": {"seed": 1}}},
        {"pool": POOL},
        {"pool": {"model": {"path": "/models/teacher", "dtype": "bfloat16"}}},
        {"pool": {"model": {"path": "/models/pupil"}}},
        *(teacher | change for change in ({"temperature": 1}, {"max_side": 64}, {"fields": ["description"]})),
        teacher | {"filters": {"min_words": 2}},
    ]
    keys = {key(tmp_path, changes) for changes in [teacher, *others]} | {key(tmp_path), key(tmp_path, seed=1)}
    monkeypatch.setattr(ingest, "VERSION", ingest.VERSION + 1)
    assert len(keys | {key(tmp_path)}) == len(others) + 4


def test_a_folder_is_unfinished_while_a_run_could_add_to_it(tmp_path: Path) -> None:
    asking = {"endpoint": ENDPOINT, "cache": tmp_path / "answers"}
    teacher, miser = (TeacherSettings.model_validate(asking | more) for more in ({}, {"budget_requests": 0}))
    asked = {"dropped": {}, "teacher": {"failed": {"timeout": 2}, "over_budget": 3}}
    assert unfinished(asked, teacher) == "5 questions have no answer of the teacher's yet"
    assert unfinished(asked, miser) is None
    assert unfinished({"dropped": {}, "teacher": {"failed": {}, "over_budget": 0}}, teacher) is None
    assert unfinished({"dropped": {"a": {"unreadable_file": 2, "empty_file": 1}}}, None) == "2 files could not be read"
    assert unfinished({"dropped": {"a": {"empty_file": 1}}}, None) is None
