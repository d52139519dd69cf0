"""Damaged input: whatever bytes a data set holds, every entry is kept or dropped by name, and nothing else happens."""

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermo_ray.config.prepare import ImageSettings
from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.ingest import ingest
from dermo_ray.data.listing import survey
from dermo_ray.data.sources import open_source

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


@pytest.mark.parametrize("seed", range(20))
def test_fifty_damaged_rows_are_kept_or_dropped_by_name(seed: int, tmp_path: Path, write_ham10000) -> None:
    rng = random.Random(seed)
    rows = [(f"HAM_{number // 2}", f"ISIC_{number:02d}", rng.choice(["nv", "mel", "bkl"])) for number in range(50)]
    write_ham10000(tmp_path, rows, {image_id: 1 for _, image_id, _ in rows})
    table = tmp_path / "HAM10000_metadata.csv"
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(lines[0] + b"".join(damaged(line, rng) for line in lines[1:]))
    source = open_source(SourceConfig(name="ham10000", root=tmp_path), seed=0)
    entries = source.entries()
    found = survey(source, entries)
    assert found.entries == len(entries) > 0
    assert found.refused.keys() <= {"malformed_row", "missing_file"}
    assert sum(found.labels.values()) + sum(found.refused.values()) <= found.entries
