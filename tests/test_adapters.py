"""Adapters are published whole, under a new name for every version, and retired by version."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from actors import adapters
from actors.adapters import WEIGHTS, Adapter, FullWeights, checksum, retire

publish = partial(adapters.publish, kind=Adapter)


def saves(weights: bytes) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(weights)

    return save


def test_a_published_adapter_has_a_name_of_its_version_and_the_checksum_of_its_weights(tmp_path: Path) -> None:
    first, second = (publish(tmp_path / "adapters", version, saves(b"weights")) for version in (0, 12))
    assert [first.path.name, second.path.name] == ["v000000", "v000012"]
    assert first.checksum == second.checksum == checksum(first.path)
    assert Adapter.at(second.path, 12) == second
    (second.path / WEIGHTS).write_bytes(b"weighty")
    assert checksum(second.path) != second.checksum


def test_what_could_not_be_saved_is_not_published(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, 3, save)
    assert list(tmp_path.glob("v*")) == []
    assert (publish(tmp_path, 3, saves(b"whole")).path / WEIGHTS).read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["v000003"]


def test_a_folder_that_a_killed_run_left_behind_is_replaced(tmp_path: Path) -> None:
    left = publish(tmp_path, 3, saves(b"old"))
    (left.path / "more").touch()
    new = publish(tmp_path, 3, saves(b"new"))
    assert new.checksum != left.checksum
    assert [path.name for path in new.path.iterdir()] == [WEIGHTS]


def test_versions_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    for version in range(4):
        publish(tmp_path, version, saves(b"weights"))
    retire(tmp_path, keep={2, 3, -1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v000002", "v000003"]


def test_the_checksum_of_a_model_in_several_files_covers_them_all_in_order(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        for number, content in enumerate([b"first", b"second"], start=1):
            (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(content)
        (folder / "config.json").write_text("{}")

    model = adapters.publish(tmp_path, 1, save, FullWeights)
    assert model.checksum == hashlib.sha256(b"firstsecond").hexdigest()
    assert model != Adapter.at(model.path, 1)
    (model.path / "model-00002-of-00002.safetensors").write_bytes(b"2nd")
    assert checksum(model.path) != model.checksum


def test_a_folder_without_weights_has_no_checksum(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        checksum(tmp_path)
