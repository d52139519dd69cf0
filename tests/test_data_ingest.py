"""What is read again, what is taken from the cache, and what names and contents may be: the first half of preparing."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dermo_ray.config.prepare import ImageSettings, PrepareConfig
from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.ingest import block_key, ingest, is_stored, store_block
from dermo_ray.data.listing import as_tables, entries_of, survey
from dermo_ray.data.samples import Entry
from dermo_ray.data.selection import select
from dermo_ray.data.sources import open_source
from dermo_ray.data.tables import INGESTED
from dermo_ray.taxonomy import Taxonomy

AS_IT_IS = ImageSettings()


def read_all(config: SourceConfig, out: Path, settings: ImageSettings = AS_IT_IS) -> list[dict[str, Any]]:
    """A row for each entry, sent to a worker and stored as the job does."""
    source = open_source(config, seed=0)
    entries = source.entries()
    assert survey(source, entries).entries == len(entries)
    tables = list(as_tables(config.title, entries, 100))
    rows = [ingest(entry, config.title, source, settings, out) for table in tables for entry in entries_of(table)]
    store_block(rows, out / "block.parquet")
    return rows


def verdicts(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["reject"] or "kept" for row in rows)


def test_a_name_or_folder_that_is_no_utf8_costs_its_own_image(tmp_path: Path) -> None:
    for name in (b"nevus/1.jpg", b"nevus/caf\xe9.jpg", b"n\xe6vus/2.jpg"):
        path = Path(os.fsdecode(os.fsencode(tmp_path / "root") + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(path, "JPEG")
    rows = read_all(SourceConfig(name="folder", root=tmp_path / "root", modality="clinical"), tmp_path)
    assert verdicts(rows) == {"kept": 1, "malformed_row": 2}
    assert len({row["id"] for row in rows}) == 3


def test_half_a_surrogate_pair_in_any_cell_costs_its_own_row(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    whole = {"image": "a.jpg", "label": "nevus", "patient": "7", "tone": "3", "seen": ["Scale"]}
    broken = [whole | {name: "x\ud800"} for name in ("image", "label", "patient")]
    rows = [
        whole,
        *broken,
        whole | {"image": "b.jpg", "seen": ["\udfff"]},
        whole | {"image": "c.jpg", "tone": "\ud83d"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = {"image": "image", "label": "label", "group": "patient", "skin_tone": "tone", "skincon": "seen"}
    source = {"root": tmp_path, "file": tmp_path / "t.jsonl", "modality": "clinical", "columns": columns}
    found = read_all(SourceConfig.model_validate({"name": "table"} | source), tmp_path)
    assert verdicts(found) == {"kept": 1, "malformed_row": 3, "missing_file": 2}


def test_a_block_with_a_file_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    def stored(*reasons: str | None) -> Path:
        path = tmp_path / f"{reasons}.parquet"
        store_block([{"id": "a", "source": "folder", "reject": reason} for reason in reasons], path)
        return path

    assert not is_stored(tmp_path / "absent")
    assert not is_stored(stored("damaged_image", "unreadable_file", None))
    assert is_stored(stored("damaged_image", None))
    assert is_stored(stored(None))


def test_an_image_without_a_lesion_keeps_its_split_under_other_settings_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "nevus"
    folder.mkdir(parents=True)
    for number in range(60):
        noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)  # no two look alike
        Image.fromarray(noise).resize((60, 45)).save(folder / f"{number}.jpg")
    source = SourceConfig(name="folder", root=tmp_path / "root", modality="clinical")

    def splits(**images: Any) -> dict[str, str]:
        config = PrepareConfig.model_validate(
            {"sources": [source], "out": tmp_path / "out", "images": images, "split": {"val": 0.3, "test": 0.3}}
        )
        rows = pa.Table.from_pylist(read_all(source, tmp_path / "out", config.images), INGESTED)
        samples = select(rows, config, Taxonomy.load()).samples
        return dict(zip(samples["id"].to_pylist(), samples["split"].to_pylist(), strict=True))

    as_it_was = splits()
    assert len(as_it_was) == 60
    assert splits(encoding="png") == splits(jpeg_quality=70) == splits(max_side=48) == as_it_was


def test_without_a_search_for_copies_nothing_of_a_benchmark_is_trained_on_and_no_file_is_on_two_sides(
    tmp_path: Path,
) -> None:
    drawn = {"ours/nevus/1": 1, "ours/nevus/2": 2, "ours/nevus/copy": 2, "ours/nevus/leak": 9, "theirs/nevus/1": 9}
    for name, seed in drawn.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
        # a copy saved anew is another source file, and the same one stored
        Image.fromarray(noise).resize((60, 45)).save(
            tmp_path / f"{name}.png", compress_level=9 if "copy" in name else 1
        )
    sources = [
        SourceConfig(name="folder", alias=alias, root=tmp_path / alias, modality="clinical", use=use)
        for alias, use in (("ours", "train"), ("theirs", "benchmark"))
    ]
    config = PrepareConfig.model_validate(
        {
            "sources": sources,
            "out": tmp_path / "out",
            "duplicates": {"distance": None},
            "split": {"val": 0, "test": 0},
            "min_images": 1,
        }
    )
    rows = [row for source in sources for row in read_all(source, tmp_path / "out")]
    found = select(pa.Table.from_pylist(rows, INGESTED), config, Taxonomy.load())
    kept = {row["id"]: row for row in found.samples.to_pylist()}
    assert kept.keys() == {f"ours_nevus/{name}.png" for name in ("1", "2", "copy")} | {"theirs_nevus/1.png"}
    assert kept["ours_nevus/2.png"]["group"] == kept["ours_nevus/copy.png"]["group"]
    assert [(row["reject"], row["same_as"]) for row in found.rejects.to_pylist()] == [
        ("benchmark_overlap", "theirs_nevus/1.png")
    ]


def keys(source: SourceConfig, entries: list[Entry]) -> set[str]:
    return {block_key(table, source, AS_IT_IS) for table in as_tables(source.title, entries, 50)}


def test_more_phantoms_and_another_seed_of_the_splits_leave_the_blocks_that_were_read() -> None:
    few, many = (SourceConfig(name="phantoms", count=count) for count in (1_000, 2_000))
    before, after = (keys(source, open_source(source, seed=0).entries()) for source in (few, many))
    assert len(before - after) == 1  # the last one, which was not full
    assert not before & keys(few, open_source(few, seed=1).entries())


@pytest.mark.parametrize("place", [0, 700])
def test_an_added_file_leaves_nearly_all_blocks_that_were_read(place: int) -> None:
    source = SourceConfig(name="folder", root="x", modality="clinical")
    entries = [Entry(f"folder_nevus/{number:04d}.jpg", {"bytes": number}) for number in range(2_000)]
    before = keys(source, entries)
    after = keys(source, [*entries[:place], Entry("folder_new.jpg"), *entries[place:]])
    assert 20 <= len(before) <= 80
    assert len(before - after) <= 3


def test_every_entry_is_in_one_table_of_bounded_length() -> None:
    entries = [Entry(f"x_{number % 900}", {"number": number}) for number in range(1_000)]
    tables = list(as_tables("x", entries, 50))
    assert [entry for table in tables for entry in entries_of(table)] == entries[:900]
    assert all(25 <= len(table) <= 100 for table in tables[:-1])
    assert sum(map(len, as_tables("x", entries, 1))) == 900
