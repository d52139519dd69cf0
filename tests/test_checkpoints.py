"""A checkpoint is whole or not there, and what is damaged is named."""

from pathlib import Path

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
