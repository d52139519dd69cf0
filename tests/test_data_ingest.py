"""What is read again, what is taken from the cache, and what names and contents may be: the first half of preparing."""

from pathlib import Path

from dermo_ray.data.ingest import is_stored, store_block


def test_a_block_with_a_file_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    def stored(*reasons: str | None) -> Path:
        path = tmp_path / f"{reasons}.parquet"
        store_block([{"id": "a", "source": "folder", "reject": reason} for reason in reasons], path)
        return path

    assert not is_stored(tmp_path / "absent")
    assert not is_stored(stored("damaged_image", "unreadable_file", None))
    assert is_stored(stored("damaged_image", None))
    assert is_stored(stored(None))
