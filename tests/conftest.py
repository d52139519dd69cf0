"""Fixtures that several test modules share. Those that need torch import it themselves: most tests do without."""

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from dermo_ray import checkpoints
from jobs.cluster import ray_session

_CHROMIUM = Path("/usr/bin/chromium")

WriteHam10000 = Callable[[Path, Sequence[tuple[str, str, str]], Mapping[str, int]], None]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray of two cores for the whole test run."""
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")  # while it is open, no other module's asyncio.run would work
def browser() -> Iterator[Browser]:
    """Headless Chromium, as Debian's package `chromium` installs it."""
    if not _CHROMIUM.exists():
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=str(_CHROMIUM), args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def small_corpus(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of 20 phantoms; to be read, not written."""
    from dermo_ray.config.prepare import PrepareConfig
    from jobs import prepare

    out = tmp_path_factory.mktemp("prepared") / "data"
    split = {"val": 0.2, "test": 0.2}
    prepare.run(PrepareConfig(source="phantoms", count=20, out=out, phantom={"size": 48}, split=split))
    return out


@pytest.fixture(scope="session")
def corpus(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of dermoscopic and clinical phantoms with brief prompts; to be read, not written."""
    from dermo_ray.config.prepare import PrepareConfig
    from jobs import prepare

    out = tmp_path_factory.mktemp("corpus") / "data"
    prepare.run(
        PrepareConfig(
            source="phantoms",
            count=120,
            out=out,
            prompts="brief",
            formats=["morph_reasoning", "morph_description"],
            phantom={"size": 64},
            split={"val": 0.1, "test": 0.2},
        )
    )
    return out


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny policy with random weights."""
    from dermo_ray.phantom.tiny_model import TinyModelSettings, save_tiny_model

    folder = tmp_path_factory.mktemp("tiny-model")
    save_tiny_model(folder, TinyModelSettings(patch_size=16), seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter of rank 8 on `tiny_model` that changes its answers."""
    import torch
    from learner_cases import move

    from dermo_ray.config.model import LoraSettings, ModelSettings
    from dermo_ray.models.policy import load_policy

    folder = tmp_path_factory.mktemp("tiny-adapter")
    policy = load_policy(ModelSettings(path=tiny_model), LoraSettings(rank=8, alpha=8))
    move(policy, torch.Generator().manual_seed(0))
    policy.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained_run(tiny_model: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose one checkpoint, of update 7, holds `tiny_adapter`; to be read, not written."""
    run = tmp_path_factory.mktemp("run")
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(tiny_model)}, "lora": {"rank": 8}}))
    partial = checkpoints.begin(run / "checkpoints", 7)
    shutil.copytree(tiny_adapter, partial / "adapter")
    checkpoints.commit(partial, {"step": 7, "version": 7})
    return run


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run of four steps of six groups of four, over eight prompts; to be read, not written."""
    from benchmarks.synthetic_run import write_run

    run = tmp_path_factory.mktemp("view") / "synthetic-run"
    write_run(run, steps=4, groups=6, group_size=4, prompts=8)
    return run


@pytest.fixture(scope="session")
def write_ham10000() -> WriteHam10000:
    """Writes a miniature of HAM10000's published layout to a folder.

    Takes the folder, rows of (lesion id, image id, diagnosis), and {image id: the part its file lies in}.
    """

    def write(root: Path, rows: Sequence[tuple[str, str, str]], parts: Mapping[str, int]) -> None:
        header = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")
        with (root / "HAM10000_metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows((*row, "histo", "50", "male", "back", "vidir_modern") for row in rows)
        for number, (image_id, part) in enumerate(parts.items()):
            folder = root / f"HAM10000_images_part_{part}"
            folder.mkdir(exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)  # no two look alike
            Image.fromarray(noise).resize((60, 45)).save(folder / f"{image_id}.jpg")

    return write
