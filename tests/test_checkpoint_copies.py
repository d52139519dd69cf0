"""Copies of checkpoints on other file systems: a folder, and one without renames or folders, as object stores are."""

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fake_pools import FakeLearners, FakeRollouts, at_once, conduct, settings

from dermo_ray import checkpoint_copies, checkpoints
from dermo_ray.errors import UserError


@pytest.fixture(params=["memory", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "copies")
        return
    system = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)


def add(run: Path, step: int, score: float | None = None) -> Path:
    partial = checkpoints.begin(run / "checkpoints", step)
    (partial / "adapter").mkdir()
    (partial / "adapter" / "weights").write_text(f"weights of {step}")
    (run / "ledger.jsonl").write_text(f"up to {step}")
    return checkpoints.commit(partial, {"step": step, "score": score})


def upload(run: Path, url: str, step: int, score: float | None = None, keep_best: int = 0) -> None:
    checkpoint_copies.upload(run, add(run, step, score), url, keep=2, keep_best=keep_best)


def test_what_was_copied_comes_back_whole_on_another_machine(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert checkpoint_copies.restore(there, "checkpoints", url) is None
    for step in (10, 20):
        upload(here, url, step)
    restored = checkpoint_copies.restore(there, "checkpoints", url)
    assert restored == there / "checkpoints" / "step_000020" == checkpoints.latest(there / "checkpoints")
    assert (restored / "adapter" / "weights").read_text() == "weights of 20"
    assert (there / "ledger.jsonl").read_text() == "up to 20"


def test_as_many_copies_stay_as_checkpoints(url: str, tmp_path: Path) -> None:
    for step, score in ((10, 0.5), (20, 0.9), (30, 0.1), (40, 0.2)):
        upload(tmp_path / "run", url, step, score, keep_best=1)
    system, root = fsspec.core.url_to_fs(url)
    assert sorted(path.rpartition("/")[2] for path in system.glob(f"{root}/step_*")) == [
        "step_000020",
        "step_000030",
        "step_000040",
    ]


def test_a_copy_that_was_cut_off_or_damaged_gives_way_to_the_one_before(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        upload(tmp_path / "here", url, step)
    system, root = fsspec.core.url_to_fs(url)
    system.makedirs(f"{root}/step_000030/adapter", exist_ok=True)
    system.pipe_file(f"{root}/step_000030/adapter/weights", b"no manifest yet")
    system.pipe_file(f"{root}/step_000020/adapter/weights", b"something else")
    restored = checkpoint_copies.restore(tmp_path / "there", "checkpoints", url)
    assert restored is not None
    assert restored.name == "step_000010"
    assert [path.name for path in (tmp_path / "there" / "checkpoints").glob("*step*")] == ["step_000010"]
    assert "step_000020 is damaged" in caplog.text
    system.pipe_file(f"{root}/step_000010/adapter/weights", b"something else")
    with pytest.raises(UserError, match="adapter/weights is not what was written"):
        checkpoint_copies.restore(tmp_path / "nowhere", "checkpoints", url)


def test_a_url_that_nothing_can_open_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint_copy=nosuch://bucket can't be opened"):
        checkpoint_copies.restore(tmp_path, "checkpoints", "nosuch://bucket")


class Unreachable(Exception):
    """What a file system raises that is no `OSError`, as Google's does."""


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_copy_that_fails_however_or_never_ends_costs_the_run_nothing_but_itself(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def upload(*_: object) -> None:
        if how == "raises":
            raise Unreachable("no such bucket")
        time.sleep(20)

    monkeypatch.setattr(checkpoint_copies, "upload", upload)
    config = settings(tmp_path, steps=2, checkpoint_copy="memory://bucket", checkpoint_copy_timeout=0.2)
    began = time.monotonic()
    conduct(config, FakeRollouts(at_once), FakeLearners())
    assert time.monotonic() - began < 10
    reason = "no such bucket" if how == "raises" else "not within 0.2 s"
    assert [record.message for record in caplog.records if "copied" in record.message] == [
        f"step_{step:06d} could not be copied to memory://bucket ({reason}); the next one will be" for step in (1, 2)
    ]


def test_a_copy_whose_score_cannot_be_read_makes_way_for_others(url: str, tmp_path: Path) -> None:
    upload(tmp_path / "run", url, 10, score=0.9)
    system, root = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{root}/step_000010/state.json", b"{")
    for step in (20, 30):
        upload(tmp_path / "run", url, step, score=0.1, keep_best=1)
    assert sorted(path.rpartition("/")[2] for path in system.glob(f"{root}/step_*")) == ["step_000020", "step_000030"]
