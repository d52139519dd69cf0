"""What the pages say is what the code does: links, commands, settings, quoted messages, tables and examples."""

import ast
import doctest
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from dermo_ray import completion
from dermo_ray.config import RewardConfig, Settings, load
from dermo_ray.config.cct import CCTConfig
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.config.reward import FaultCosts, TermWeights
from dermo_ray.config.safety import SafetySettings
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.morphology import DERM7PT_FIELDS
from dermo_ray.phantom import DIAGNOSES, AnnotationNoise, PhantomSettings
from dermo_ray.phantom.annotation import MILDER
from dermo_ray.phantom.clinical import DRAWN_FEATURES
from jobs import command
from jobs.cli import JOBS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("dermo_ray", "rewards", "actors", "serve", "jobs")
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

PARTS: dict[str, type[Settings]] = {
    "reward": RewardConfig,
    "cct": CCTConfig,
    "phantom": PhantomSettings,
    "noise": AnnotationNoise,
    "teacher": TeacherSettings,
    "judge": JudgeSettings,
    "safety": SafetySettings,
}
"""Groups of settings that a table may describe, beside whole jobs."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def model_of(what: str) -> type[Settings]:
    """The settings model of `jobs.NAME`, or of a group of settings."""
    return PARTS[what] if what in PARTS else importlib.import_module(what).CONFIG


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks in a language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words after `python -m jobs.` of every command, the job's name first."""
    text = "".join(blocks(page, "bash")) + "\n".join(re.findall(r"`([^`\n]+)`", prose(page)))
    return [shlex.split(rest, comments=True) for rest in re.findall(r"python -m jobs\.(.+)", text)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_readme() -> None:
    assert {page.name for page in PAGES if page.parent.name == "docs"} <= {
        Path(target).name for page in PAGES for target in re.findall(r"\]\(([^)#\s]+\.md)", text_of(page))
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_loads_with_the_settings_of_its_job(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for job, *arguments in commands(page):
        assert importlib.util.find_spec(f"jobs.{job}") is not None, job
        if arguments and not {"--help", "CONFIG.yaml"} & set(arguments):
            load(model_of(f"jobs.{job}"), *command.parse(arguments))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_settings_file_that_is_shown_loads(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        marked = re.match(r"# settings for (jobs\.\w+)", text)
        assert marked, f"say first which job these settings are for: {text}"
        file = tmp_path / "shown.yaml"
        file.write_text(text, encoding="utf-8")
        load(model_of(marked[1]), file)


@pytest.mark.parametrize("file", CONFIGS, ids=name)
def test_every_settings_file_loads_with_the_model_of_the_job_it_is_named_after(file: Path) -> None:
    job = next(name for name in (file.stem.partition("-")[0], file.parent.name) if name in JOBS)
    load(model_of(f"jobs.{job}"), file)


def default_of(model: type[Settings], dotted: str) -> Any:
    """The default of a setting as YAML would hold it, "required" where there is none."""
    owner: Any = model
    for part in dotted.split("."):
        fields = (owner if isinstance(owner, type) else type(owner)).model_fields
        assert part in fields, f"{model.__name__} has no setting {dotted}"
        value = fields[part].get_default(call_default_factory=True) if isinstance(owner, type) else getattr(owner, part)
        owner = fields[part].annotation if value is PydanticUndefined else value
    if value is PydanticUndefined:
        return "required"
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_of_settings_give_their_defaults(page: Path) -> None:
    wrong = []
    for what, table in re.findall(
        r"^\| setting of `([\w.]+)` \| default .*\n\|[- |]+\n((?:\|.*\n)+)", prose(page), re.M
    ):
        for row in table.splitlines():
            setting, shown = (cell.strip() for cell in row.split(" | ")[:2])
            default = default_of(model_of(what), setting.strip("| `"))
            if yaml.safe_load(shown) != default:
                wrong.append(f"{setting.strip('| ')} is {default!r}, not {shown}")
    assert not wrong


def test_every_part_of_the_reward_is_explained() -> None:
    page = text_of(ROOT / "docs/reward.md")
    settings = [*(set(RewardConfig.model_fields) - {"weights", "faults"})]
    settings += [f"weights.{term}" for term in TermWeights.model_fields]
    settings += [f"faults.{fault}" for fault in FaultCosts.model_fields]
    assert [setting for setting in settings if f"| `{setting}` |" not in page] == []


def diagnoses_table() -> str:
    """The rules of the phantoms in the order in which they are tried."""
    rows = [
        f"| {d.modality} | {d.name} | {d.superclass} | {d.rule} | {', '.join(d.synonyms)} |" for d in DIAGNOSES.values()
    ]
    return "\n".join(
        ["| modality | diagnosis | superclass | the rule | synonyms |", "| --- | --- | --- | --- | --- |", *rows]
    )


def fields_table() -> str:
    """The values of the Derm7pt fields, and what annotators write instead."""
    rows = []
    for field, values in DERM7PT_FIELDS.items():
        milder = "; ".join(f"{severe}: {mild}" for severe, mild in MILDER[field].items())
        rows.append(f"| {field} | {', '.join(values)} | {milder} |")
    return "\n".join(["| field | values | written too mildly as |", "| --- | --- | --- |", *rows])


@pytest.mark.parametrize("table", [diagnoses_table(), fields_table()], ids=["diagnoses", "fields"])
def test_tables_of_the_phantoms_are_those_of_the_code(table: str) -> None:
    assert table in text_of(ROOT / "docs/phantoms.md"), f"put this into the page:\n{table}"


def test_every_drawn_feature_is_listed() -> None:
    page = " ".join(text_of(ROOT / "docs/phantoms.md").split())
    assert f"{len(DRAWN_FEATURES)} of the 48 SkinCon features: {', '.join(DRAWN_FEATURES)}." in page


@cache
def texts_in_code() -> frozenset[str]:
    """Every string literal of the code, with an ellipsis for each value that is filled in."""
    found = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def test_every_message_under_troubleshooting_is_one_that_the_code_writes() -> None:
    messages = re.findall(r"^### `(.+)`$", text_of(ROOT / "docs/troubleshooting.md"), re.MULTILINE)
    assert messages
    assert [message for message in messages if not any(message in text for text in texts_in_code())] == []


@pytest.mark.parametrize("page", ["mavic.md", "sft.md"])
def test_every_metric_that_is_explained_is_reported(page: str) -> None:
    (table,) = re.findall(r"^\| metric .*\n\|[- |]+\n((?:\|.*\n)+)", text_of(ROOT / "docs" / page), re.MULTILINE)
    names = [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert names
    assert [n for n in names if re.sub("<.*>", "…", n) not in texts_in_code()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_in_python_give_what_is_shown(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, name(page), "exec")
    for text in blocks(page, "pycon"):
        example = doctest.DocTestParser().get_doctest(text, {}, name(page), name(page), 0)
        assert doctest.DocTestRunner().run(example).failed == 0


def test_completions_that_are_shown_have_no_fault() -> None:
    shown = list(blocks(ROOT / "docs/formats.md", "xml"))
    assert len(shown) == 2
    for text in shown:
        assert completion.parse(text, "task3" if "final_diagnosis" in text else "task1").faults == ()
