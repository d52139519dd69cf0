"""The human turns that ask for a completion, from template files.

A template stands in `STYLE/TASK.txt`; `$modality` and `$schema` are filled in, the latter from `STYLE/SCHEMA.txt` with
the key and the closed vocabulary of the modality, so that a prompt can't drift from `dermo_ray.morphology`.

Invariant: a prompt begins with `<image>` on a line of its own and names the one schema of its modality alone.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal, get_args

from dermo_ray.morphology import (
    DERM7PT_FIELDS,
    DERM7PT_KEY,
    SCHEMA_FOR_MODALITY,
    SKINCON_FEATURES,
    SKINCON_KEY,
    Modality,
    Schema,
)

Style = Literal["full", "brief"]
"""`full` spells out the output contract and the vocabulary, for pretrained models; `brief` takes a handful of words."""
PromptTask = Literal["task1", "task3", "diagnosis"]

IMAGE_PLACEHOLDER = "<image>"


@cache
def prompt(style: Style, task: PromptTask, modality: Modality) -> str:
    """The human turn for one image, `<image>` first."""
    schema = SCHEMA_FOR_MODALITY[modality]
    described = _read(style, schema).substitute(key=_KEYS[schema], vocabulary=_vocabulary(schema))
    return f"{IMAGE_PLACEHOLDER}\n{_read(style, task).substitute(modality=modality, schema=described)}"


def templates(style: Style) -> Iterator[str]:
    """Every prompt of a style."""
    for task in get_args(PromptTask):
        for modality in get_args(Modality):
            yield prompt(style, task, modality)


_KEYS: dict[Schema, str] = {"skincon": SKINCON_KEY, "derm7pt": DERM7PT_KEY}


def _read(style: Style, name: str) -> Template:
    return Template(files(__name__).joinpath(style, f"{name}.txt").read_text(encoding="utf-8").strip())


def _vocabulary(schema: Schema) -> str:
    if schema == "skincon":
        return ", ".join(SKINCON_FEATURES)
    return "\n".join(f"- {name}: {' | '.join(values)}" for name, values in DERM7PT_FIELDS.items())
