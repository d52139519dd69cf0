"""The documentation as a site: it builds without a warning, its reference is the models', its commands are ones."""

import importlib
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from ray.dashboard.modules.job.cli import job_cli_group

from benchmarks import page as figures
from dermo_ray.config.base import load
from jobs import command
from jobs.cli import JOBS
from jobs.reference import reference

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

SHOWN_IN_PLACE = {"ID": "job-1", "NAME": "name", "DIR": "runs", "HEAD:6379": "127.0.0.1:6379"}
"""What a page writes for what its reader fills in."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path, program: str) -> list[list[str]]:
    """The words of every command line in the page's blocks that begins with `program`, which is left out."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]
    words = len(program.split())
    return [[SHOWN_IN_PLACE.get(word, word) for word in line[words:]] for line in found]


def test_the_site_builds_without_a_warning_and_has_every_page(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    for page in (ROOT / "docs").glob("*.md"):
        where = tmp_path / "site" / ("index.html" if page.stem == "index" else f"{page.stem}/index.html")
        assert where.is_file()
    assert (tmp_path / "site/configs/demo/mavic.yaml").is_file()
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+)"', (tmp_path / "site/index.html").read_text())
    assert {url for url in fetched if re.search(r"\.(?:js|css|woff2?)\b", url)} == set()


def test_the_page_of_measured_figures_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    written = (ROOT / figures.PAGE).read_text(encoding="utf-8")
    assert written == figures.page(figures.committed()), "run `python -m benchmarks.page`"


def test_the_page_of_all_settings_is_what_the_models_say() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert committed == reference(), "run `make reference`"


@pytest.mark.parametrize("job", JOBS)
def test_every_job_explains_itself_and_its_settings(job: str) -> None:
    module = importlib.import_module(f"jobs.{job}")
    text = command.usage(module.CONFIG, f"jobs.{job}", module.__doc__)
    assert f"usage: python -m jobs.{job}" in text
    assert all(f"  {setting}" in text for setting in module.CONFIG.model_fields)


def cheap_commands() -> list[list[str]]:
    """The jobs' commands on all pages that need nothing but themselves: help, and preparing phantoms."""
    found = [words for page in PAGES for words in commands(page, "python -m")]
    alone = [words for words in found if "--help" in words or {"jobs.prepare", "source=phantoms"} <= set(words)]
    return [list(words) for words in dict.fromkeys(map(tuple, alone))]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("words", cheap_commands(), ids=" ".join)
def test_commands_that_need_nothing_else_do_their_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(words[0])
    with pytest.raises(SystemExit) as ended:
        command.main(module.CONFIG, module.run, module.__doc__, words[1:])
    assert ended.value.code == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_command_names_a_target_that_make_would_build(page: Path) -> None:
    for words in commands(page, "make"):
        # the environment itself is taken to be there: it is not what is tried here
        ready = [f"--assume-old=.venv/.ready-{variant}" for variant in ("cpu", "gpu")]
        tried = subprocess.run(["make", "--dry-run", *ready, *words], cwd=ROOT, capture_output=True, text=True)
        assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_ray_job_command_is_one_that_ray_takes_and_its_entrypoint_is_a_job(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for subcommand, *arguments in commands(page, "ray job"):
        context = job_cli_group.commands[subcommand].make_context(subcommand, arguments)
        if subcommand == "submit":
            python, flag, module, *settings = context.params["entrypoint"]
            assert (python, flag) == ("python", "-m")
            load(importlib.import_module(module).CONFIG, *command.parse(settings))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_another_program_is_given_is_there(page: Path) -> None:
    for program in ("docker", "kubectl"):
        for words in commands(page, program):
            files = [word for flag, word in pairwise(words) if flag in ("-f", "--filename")]
            assert [file for file in files if "/" in file and not (ROOT / file).is_file()] == []
