"""Reading images: our job on Ray Data beside a plain loop and `datasets.map`, on the same files with the same work.

    python -m benchmarks.prepare ROOT [--copies 4] [--repeats 3]

ROOT is the published folder of HAM10000. Each image is scaled to the published 600 x 450 pixels once for each copy,
with a border of its own cut off, so that no two files are alike. The work on one: decode, check, scale to 448 pixels,
hash (content and look), encode as JPEG, store. The loop and `datasets.map` run it in two ways: as one would write
it with Pillow and imagehash, and by the job's own functions, which scale linearly and copy less; the first says what a
user gains, the second what Ray Data and the rest of the job cost. Every repeat runs all of them one after the other,
into empty folders. Peak memory (proportional, with all processes of Ray) is that of the whole job on 2,000 and on
50,000 images, the latter as further names of the same files. Writes `benchmarks/results/prepare.json`.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import datasets
import imagehash
from PIL import Image, ImageOps

from benchmarks.machine import describe
from dermo_ray.config.prepare import ImageSettings, PrepareConfig
from dermo_ray.data import images
from dermo_ray.data.duplicates import perceptual_hash
from jobs import prepare
from jobs.cluster import ray_session
from jobs.memory import PeakMemory

RESULT = Path("benchmarks/results/prepare.json")
SETTINGS = ImageSettings(max_side=448)
MEASURED_SIZES = (2_000, 50_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of HAM10000")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = enlarge(arguments.root, folder / "data", arguments.copies)
        runs = [rates(paths, folder) for _ in range(arguments.repeats)]
        memory = {size: peak_memory(paths, size, folder) for size in MEASURED_SIZES}
    median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result = {
        "command": f"python -m benchmarks.prepare ROOT --copies {arguments.copies} --repeats {arguments.repeats}",
        "machine": describe(),
        "images": len(paths),
        "images_per_second": runs,
        "median_images_per_second": median,
        "beside_plain_code": beside(median, "plain"),
        "beside_the_same_code": beside(median, "same"),
        "peak_memory_gib": memory,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "machine"}, indent=2))


def enlarge(root: Path, data: Path, copies: int) -> list[Path]:
    """Write `copies` of every image in the published size and layout; their paths."""
    part = data / "HAM10000_images_part_1"
    part.mkdir(parents=True)
    with (root / "HAM10000_metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths = []
    for row in rows:
        (original,) = root.glob(f"HAM10000_images_part_*/{row['image_id']}.jpg")
        with Image.open(original) as image:
            for copy in range(copies):
                path = part / f"{row['image_id']}_{copy}.jpg"
                box = (copy, copy, image.width - copy, image.height - copy)
                image.resize((600, 450), Image.Resampling.BICUBIC, box).save(path, quality=90)
                paths.append(path)
    write_table(data, paths)
    return paths


def write_table(data: Path, paths: list[Path]) -> None:
    with (data / "HAM10000_metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx"])
        writer.writerows([path.stem, path.stem, "nv"] for path in paths)


def beside(speeds: dict[str, float], code: str) -> dict[str, float]:
    """The job's speed as a share of the loop's times the cores, and as a multiple of that of `datasets.map`."""
    return {
        "share_of_loop_times_cores": speeds["prepare"] / (speeds[f"loop, {code} code"] * (os.cpu_count() or 1)),
        "times_datasets_map": speeds["prepare"] / speeds[f"datasets.map, {code} code"],
    }


Work = Callable[[str, Path], tuple[str, int]]
"""Reads the image at a path and stores it in a folder; its name and its perceptual hash."""


def plain(path: str, out: Path) -> tuple[str, int]:
    """The work as one would write it with Pillow and imagehash."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image.thumbnail((SETTINGS.max_side, SETTINGS.max_side), Image.Resampling.LANCZOS)
    look = int(str(imagehash.phash(image)), 16)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=SETTINGS.jpeg_quality)
    name = f"{hashlib.sha256(buffer.getvalue()).hexdigest()}.jpg"
    (out / name).write_bytes(buffer.getvalue())
    return name, look


def same(path: str, out: Path) -> tuple[str, int]:
    """The work by the functions that the job calls."""
    data = images.read(Path(path))
    images.digest(data)
    image = images.load(data, SETTINGS)
    look = perceptual_hash(image)
    return images.store(image, out, SETTINGS), look


def rates(paths: list[Path], scratch: Path) -> dict[str, float]:
    """Images per second of each way."""
    speeds = {}
    for code, work in (("plain", plain), ("same", same)):
        speeds |= {
            f"loop, {code} code": rate(partial(in_a_loop, work, paths[::4]), len(paths[::4]), scratch),
            f"datasets.map, {code} code": rate(partial(with_datasets, work, paths), len(paths), scratch),
        }
    return speeds | {"prepare": rate_of_prepare(paths, scratch)}


def in_a_loop(work: Work, paths: list[Path], out: Path) -> None:
    for path in paths:
        work(str(path), out)


def rate(function: Callable[[Path], object], count: int, scratch: Path) -> float:
    out = scratch / "out"
    out.mkdir()
    began = time.perf_counter()
    function(out)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return count / seconds


def with_datasets(work: Work, paths: list[Path], out: Path) -> None:
    rows = datasets.Dataset.from_dict({"path": list(map(str, paths))})

    def one(row: dict[str, str]) -> dict[str, object]:
        cv2.setNumThreads(1)  # as in the job: every core has a process of its own
        name, look = work(row["path"], out)
        return {"image": name, "hash": str(look)}

    rows.map(
        one, num_proc=os.cpu_count(), cache_file_name=str(out.with_name("mapped.arrow")), load_from_cache_file=False
    )


def rate_of_prepare(paths: list[Path], scratch: Path) -> float:
    """The whole job on a cluster that is up: listing, reading, de-duplication, records, manifest."""
    with ray_session():
        return rate(lambda out: prepare.run(config(scratch / "data", out)), len(paths), scratch)


def config(root: Path, out: Path) -> PrepareConfig:
    return PrepareConfig(
        source="ham10000",
        root=root,
        out=out / "prepared",
        cache=out / "cache",
        images=SETTINGS,
        formats=["diagnosis"],
        duplicates={"distance": None},
    )


def peak_memory(paths: list[Path], size: int, scratch: Path) -> float:
    """GiB that the whole job takes on `size` images."""
    data = scratch / f"data-{size}"
    part = data / "HAM10000_images_part_1"
    part.mkdir(parents=True)
    names = [part / f"ISIC_{number:07d}.jpg" for number in range(size)]
    for number, name in enumerate(names):
        os.link(paths[number % len(paths)], name)
    write_table(data, names)
    with PeakMemory(interval=0.5) as memory, ray_session():
        prepare.run(config(data, scratch / f"out-{size}"))
    shutil.rmtree(scratch / f"out-{size}")
    return round(memory.gib, 2)


if __name__ == "__main__":
    main()
