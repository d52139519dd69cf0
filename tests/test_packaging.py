"""Wheel and source distribution: what they hold, and that they work away from this folder."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for file in filter(None, files.stdout.decode().splitlines()):
        if (ROOT / file).is_file() and not file.startswith(("docs/", "benchmarks/")):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((ROOT / file).read_bytes())
    script = (
        "import sys; from setuptools import build_meta; out = sys.argv[1]; "  # building changes sys.argv
        "build_meta.build_sdist(out); build_meta.build_wheel(out)"
    )
    subprocess.run([sys.executable, "-c", script, folder], cwd=source, check=True, capture_output=True, timeout=120)
    return folder


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"actors", "dermo_ray", "jobs", "rewards", "serve"}
    for package in sorted(tops):
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert str(file.relative_to(ROOT)) in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_distribution_can_be_built_from(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "dermo_ray/taxonomy.yaml", "jobs/cli.py"} <= names


def test_the_wheel_works_away_from_the_repository(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site"], check=True, capture_output=True, timeout=60
    )
    settings = ["source=phantoms", "count=8", f"out={tmp_path / 'data'}", "dry_run=true"]
    program = (
        "import sys, pathlib; import dermo_ray; from jobs.cli import main; "
        "assert pathlib.Path(dermo_ray.__file__).is_relative_to(sys.argv.pop(1)); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "site", "prepare", *settings],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "phantoms" in ran.stdout


def test_one_version_is_named_everywhere() -> None:
    version = PROJECT["version"]
    assert metadata.version("dermo-ray") == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_requirement_is_pinned_for_both_variants(variant: str) -> None:
    pins = dict(
        line.partition(" ;")[0].split("==")
        for line in (ROOT / "requirements" / f"{variant}.txt").read_text().splitlines()
        if "==" in line.partition(" ;")[0]
    )
    extras = PROJECT["optional-dependencies"]
    for requirement in (*PROJECT["dependencies"], *extras[variant], *extras["dev"]):
        package = requirement.partition("[")[0]
        for mark in ("==", ">=", ",", "<"):
            package = package.partition(mark)[0]
        assert package.lower() in pins
