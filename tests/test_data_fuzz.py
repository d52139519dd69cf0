"""Damaged input: whatever bytes a data set holds, every entry is kept or dropped by name, and nothing else happens."""

import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dermo_ray.config.prepare import ImageSettings, PrepareConfig
from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.ingest import ingest, store_block
from dermo_ray.data.listing import as_tables, entries_of, repeated
from dermo_ray.data.selection import select
from dermo_ray.data.sources import open_source
from dermo_ray.data.tables import INGESTED
from dermo_ray.morphology import DERM7PT_FIELDS
from dermo_ray.taxonomy import Taxonomy

KINDS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "TIFF": "tif", "WEBP": "webp", "BMP": "bmp"}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` cut, overwritten, doubled or with pieces moved."""
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return rng.randbytes(rng.randrange(64)) + data[rng.randrange(len(data)) :]
    changed = bytearray(data)
    if kind == 2:
        start = rng.randrange(len(data))
        return bytes(changed[start:] + changed[:start])
    first = 0 if kind == 3 else min(32, len(data) - 1)  # the header as well, or what comes after it
    for _ in range(rng.randrange(1, 30)):
        changed[rng.randrange(first, len(data))] = rng.randrange(256)
    return bytes(changed)


def test_a_thousand_damaged_images_are_kept_or_dropped_by_name(tmp_path: Path) -> None:
    rng = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    originals = {}
    for kind in KINDS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        originals[kind] = buffer.getvalue()
    folder = tmp_path / "root" / "nevus"
    folder.mkdir(parents=True)
    for number in range(1000):
        kind = rng.choice(list(KINDS))
        (folder / f"{number:04d}.{KINDS[kind]}").write_bytes(damaged(originals[kind], rng))
    source = open_source(SourceConfig(name="folder", root=tmp_path / "root", modality="clinical"), seed=0)
    rows = [ingest(entry, "folder", source, ImageSettings(), tmp_path / "out") for entry in source.entries()]
    verdicts = Counter(row["reject"] or "kept" for row in rows)
    assert sum(verdicts.values()) == 1000
    assert verdicts.keys() <= {
        "kept", "empty_file", "not_an_image", "damaged_image", "image_too_large", "image_too_small", "image_too_narrow",
        "missing_file",
    }  # fmt: skip
    assert min(verdicts["kept"], verdicts["damaged_image"], verdicts["not_an_image"]) > 50
    stored = [tmp_path / "out" / row["image"] for row in rows if row["image"] is not None]
    for path in stored:
        with Image.open(path) as image:
            assert (image.mode, dict(image.getexif())) == ("RGB", {})
            image.load()


def ham10000(root: Path, count: int) -> Path:
    rows = [f"HAM_{n // 2},ISIC_{n:03d},{LABELS[n % 3]}" for n in range(count)]
    return written(root / "HAM10000_metadata.csv", "lesion_id,image_id,dx", rows)


def derm7pt(root: Path, count: int) -> Path:
    fields = {name.lower().replace(" ", "_"): values[-1] for name, values in DERM7PT_FIELDS.items()}
    rows = [f"{n},{LABELS[n % 3]},ISIC_{n:03d}.jpg,ISIC_{n:03d}.jpg,{','.join(fields.values())}" for n in range(count)]
    return written(root / "meta" / "meta.csv", f"case_num,diagnosis,clinic,derm,{','.join(fields)}", rows)


def fitzpatrick17k(root: Path, count: int) -> Path:
    rows = [f"ISIC_{n:03d},{n % 6 + 1},{LABELS[n % 3]}," for n in range(count)]
    return written(root / "fitzpatrick17k.csv", "md5hash,fitzpatrick_scale,label,qc", rows)


def comma_table(root: Path, count: int) -> Path:
    rows = [f'ISIC_{n:03d}.jpg,{LABELS[n % 3]},{n // 2},{n % 6 + 1},"Scale; Papule"' for n in range(count)]
    return written(root / "t.csv", "image,label,patient,tone,seen", rows)


def json_lines(root: Path, count: int) -> Path:
    cells = ({"image": f"ISIC_{n:03d}.jpg", "label": LABELS[n % 3], "patient": n // 2, "tone": 3} for n in range(count))
    rows = [json.dumps(row | {"seen": ["Scale", "Papule"]}) for row in cells]
    return written(root / "t.jsonl", rows[0], rows[1:])


def written(path: Path, first: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [first, *rows]))
    return path


LABELS = ("nevus", "melanoma", "psoriasis")
FOLDERS = {"ham10000": "HAM10000_images_part_1", "derm7pt": "images"}
COLUMNS = {"image": "image", "label": "label", "group": "patient", "skin_tone": "tone", "skincon": "seen"}


@pytest.mark.parametrize("write", [ham10000, derm7pt, fitzpatrick17k, comma_table, json_lines])
def test_of_damaged_rows_each_that_is_listed_is_kept_or_dropped_by_name(
    write: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    count, name = 200, write.__name__
    table = write(tmp_path, count)
    pictures = tmp_path / FOLDERS.get(name, "")
    pictures.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 36)).save(pictures / f"ISIC_{number:03d}.jpg")
    if name in FOLDERS or name == "fitzpatrick17k":
        config = SourceConfig.model_validate({"name": name, "root": tmp_path})
    else:
        options = {"root": tmp_path, "file": table, "modality": "clinical", "columns": COLUMNS}
        config = SourceConfig.model_validate({"name": "table", **options})
    rng = random.Random(name)
    lines = table.read_bytes().splitlines(keepends=True)
    broken = [damaged(line, rng) if rng.random() < 0.7 else line for line in lines[1:]]
    table.write_bytes(lines[0] + b"".join(broken))

    source = open_source(config, seed=0)
    entries = source.entries()
    out = tmp_path / "out"
    rows = [
        ingest(entry, config.title, source, ImageSettings(), out)
        for block in as_tables(config.title, entries, 64)
        for entry in entries_of(block)
    ]
    twice = repeated({config.title: entries})
    read = [*rows, *twice.to_pylist()]
    assert len(read) == len(entries) > count / 2
    store_block(rows, out / "rows.parquet")

    settings = PrepareConfig.model_validate({"sources": [config], "out": out, "split": {"val": 0, "test": 0}})
    found = select(pa.Table.from_pylist(read, INGESTED), settings, Taxonomy.load())
    assert len(found.samples) + len(found.rejects) == len(read)
    assert min(len(found.samples), len(found.rejects)) > 20
    assert Counter(found.rejects["reject"].to_pylist()).keys() <= {
        "malformed_row", "malformed_morphology", "missing_file", "missing_label", "unknown_label", "duplicate_id",
        "near_duplicate",
    }  # fmt: skip
