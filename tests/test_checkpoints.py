"""A checkpoint is whole or not there, and what is damaged is named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dermo_ray import checkpoints
from dermo_ray.errors import UserError


def add(folder: Path, step: int, text: str = "weights") -> Path:
    partial = checkpoints.begin(folder, step)
    (partial / "adapter").mkdir()
    (partial / "adapter" / "weights").write_text(text)
    return checkpoints.commit(partial, {"step": step, "pending": [3, 5]})


def test_a_committed_checkpoint_is_the_latest_and_gives_its_state_back(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    first = add(tmp_path, 20)
    assert checkpoints.latest(tmp_path) == first == tmp_path / "step_000020"
    second = add(tmp_path, 40)
    assert checkpoints.latest(tmp_path) == second
    assert checkpoints.read_state(second) == {"step": 40, "pending": [3, 5]}


def test_a_killed_writer_leaves_the_one_before_as_the_latest(tmp_path: Path) -> None:
    whole = add(tmp_path, 20)
    partial = checkpoints.begin(tmp_path, 40)
    (partial / "weights").write_text("half")
    assert checkpoints.latest(tmp_path) == whole
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_000020"]
    assert list(checkpoints.begin(tmp_path, 40).iterdir()) == []


def test_a_step_that_is_written_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    add(tmp_path, 20, "old")
    again = add(tmp_path, 20, "new")
    assert checkpoints.latest(tmp_path) == again
    assert (again / "adapter" / "weights").read_text() == "new"


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    checkpoint = add(tmp_path, 20)
    (checkpoint / "adapter" / "weights").write_text("weighty")
    with pytest.raises(UserError, match="is damaged: adapter/weights is not what was written"):
        checkpoints.latest(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    checkpoint = add(tmp_path, 20)
    (checkpoint / "adapter" / "weights").unlink()
    with pytest.raises(UserError, match="is damaged: adapter/weights is missing"):
        checkpoints.verify(checkpoint)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = add(tmp_path, 20)
    (checkpoint / checkpoints.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"no complete checkpoint: MANIFEST\.json is missing"):
        checkpoints.verify(checkpoint)


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        add(tmp_path, step)
    checkpoints.begin(tmp_path, 20)
    checkpoints.retain(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000010", "step_000015"]
    assert checkpoints.latest(tmp_path) == tmp_path / "step_000015"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step_*"))


def damage(checkpoint: Path, how: str) -> None:
    if how == "changed":
        (checkpoint / "adapter" / "weights").write_text("weighty")
    elif how == "missing":
        (checkpoint / "adapter" / "weights").unlink()
    elif how == "manifest":
        (checkpoint / checkpoints.MANIFEST).write_text('{"files": {')
    else:
        (checkpoint / checkpoints.MANIFEST).unlink()


@pytest.mark.parametrize("how", ["changed", "missing", "manifest", "no manifest"])
def test_a_damaged_latest_gives_way_to_the_newest_that_is_whole_and_that_is_said(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (add(tmp_path, step) for step in (10, 20, 30))
    damage(third, how)
    assert checkpoints.recover(tmp_path) == second
    assert checkpoints.latest(tmp_path) == second
    assert names(tmp_path) == ["step_000010", "step_000020"]
    assert (tmp_path / ".step_000030.damaged" / "state.json").is_file()
    (record,) = caplog.records
    assert "step_000030 is" in record.message
    assert "it is put aside as .step_000030.damaged, and step_000020 is taken instead" in record.message
    assert add(tmp_path, 30) == checkpoints.recover(tmp_path)
    assert first.is_dir()


@pytest.mark.parametrize("best", [10, 30])
def test_the_link_to_the_best_goes_with_a_damaged_one_and_stays_otherwise(tmp_path: Path, best: int) -> None:
    added = {step: add(tmp_path, step) for step in (10, 20, 30)}
    checkpoints.point_at(added[best], checkpoints.BEST)
    damage(added[30], "changed")
    checkpoints.recover(tmp_path)
    assert (tmp_path / "best").is_symlink() == (tmp_path / "best").exists() == (best == 10)


def test_where_all_checkpoints_are_damaged_the_newest_is_named_and_nothing_is_moved(tmp_path: Path) -> None:
    for step in (10, 20):
        damage(add(tmp_path, step), "changed")
    with pytest.raises(UserError, match="step_000020 is damaged: adapter/weights is not what was written"):
        checkpoints.recover(tmp_path)
    assert names(tmp_path) == ["step_000010", "step_000020"]


def test_a_checkpoint_that_was_written_and_not_yet_pointed_at_is_found(tmp_path: Path) -> None:
    assert checkpoints.recover(tmp_path) is None
    whole = add(tmp_path, 10)
    (tmp_path / "latest").unlink()
    assert checkpoints.recover(tmp_path) == whole
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("step_000099")
    assert checkpoints.recover(tmp_path) == whole == checkpoints.latest(tmp_path)


def test_a_writer_killed_anywhere_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes the file system is the last one, one after the other."""

    class Killed(BaseException):
        pass

    def until_killed(calls: int) -> bool:
        folder = tmp_path / str(calls)
        add(folder, 10, "old")
        left = [calls]

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree"), (Path, "symlink_to"),
                                (Path, "write_text"), (Path, "unlink"), (Path, "mkdir")):  # fmt: skip
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                add(folder, 10, "new")
                add(folder, 20)
                checkpoints.retain(folder, keep=1)
                ended = True
            except Killed:
                ended = False
        assert checkpoints.recover(folder) is not None
        return ended

    assert not until_killed(0)
    assert any(until_killed(calls) for calls in range(1, 60))


def test_what_a_kill_left_of_a_checkpoint_that_was_being_removed_does_not_end_the_next_run(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoints.commit(checkpoints.begin(tmp_path, step), {"step": step, "score": 0.5})
    (tmp_path / "step_000005" / checkpoints.STATE).unlink()
    (tmp_path / "step_000010" / checkpoints.STATE).write_text("{")
    checkpoints.retain(tmp_path, keep=1, keep_best=1)
    assert names(tmp_path) == ["step_000015"]


def test_what_a_killed_writer_left_unfinished_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    whole = add(tmp_path, 10)
    (checkpoints.begin(tmp_path, 17) / "weights").write_text("half")
    assert checkpoints.recover(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_000010"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def checked(source: Path, target: Path) -> None:
        assert synced == {"weights", "adapter", checkpoints.STATE, checkpoints.MANIFEST, source.name}
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", checked)
    add(tmp_path, 10)
    assert tmp_path.name in synced


def test_the_newest_and_the_best_of_the_others_stay(tmp_path: Path) -> None:
    for step, score in ((5, 0.9), (10, 0.2), (15, None), (20, 0.7), (25, 0.1), (30, 0.0)):
        checkpoints.commit(checkpoints.begin(tmp_path, step), {"step": step, "score": score})
        checkpoints.retain(tmp_path, keep=2, keep_best=2)
    assert names(tmp_path) == ["step_000005", "step_000020", "step_000025", "step_000030"]
