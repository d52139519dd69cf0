"""The page that lists every setting of every job, written from the models themselves."""

from collections.abc import Mapping
from pathlib import Path

from dermo_ray.config.base import AbsolutePath, Settings, describe


class ReferenceConfig(Settings):
    """Settings of `jobs.reference`."""

    out: AbsolutePath = Path("docs/configuration.md")
    """The page to write."""


_HEAD = """\
# Every setting

Written by `python -m jobs.reference` from the settings' own docstrings, which `--help` prints as well. A setting stands
in a job's file as nested YAML, or on its command line as `key.sub=value`; `required` has no default. Below a setting
whose default is `None`, the table gives what holds once it is set. Entries of a list are named by their number, as in
`sources.0.root=DIR`.
"""


def page(jobs: Mapping[str, tuple[type[Settings], str]]) -> str:
    """Markdown with one section a job, from its settings and its docstring by name."""
    parts = [_HEAD]
    for name, (model, docstring) in jobs.items():
        first = docstring.strip().partition("\n")[0]
        rows = [
            f"| `{setting}` | {_cell(kind)} | {_cell(default)} | {_cell(meaning)} |"
            for setting, kind, default, meaning in describe(model)
        ]
        head = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([f"## jobs.{name}", "", first, "", *head, *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    """`text` as the cell of a table, nothing of it being markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
