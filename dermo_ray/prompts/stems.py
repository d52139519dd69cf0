"""Several human wordings of one request, so that a policy learns the task and not a phrase.

`instruct/REQUEST.txt` holds one wording a line; what follows its first empty line is added to each of them. `$contract`
is the output contract of the full prompt of the same task, so that the two can't drift apart. The full prompt itself is
one of the wordings; the brief style keeps to one.

Invariant: a request is the text of a human turn without its image; the first wording is that of the style's prompt
where it has one.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from random import Random
from string import Template
from types import MappingProxyType
from typing import Literal

from dermo_ray.morphology import Modality
from dermo_ray.prompts import IMAGE_PLACEHOLDER, PromptTask, Style, prompt

Request = Literal[
    "description",
    "morph_description",
    "reasoning",
    "morph_reasoning",
    "diagnosis",
    "derm7pt_choice",
    "skincon_choice",
    "diagnosis_choice",
    "hierarchy_top",
    "hierarchy_middle",
    "hierarchy_leaves",
]

_TASKS: Mapping[Request, PromptTask] = MappingProxyType(
    {"morph_description": "task1", "morph_reasoning": "task3", "diagnosis": "diagnosis"}
)
"""The requests that the styles' own prompts make too."""


def ask(request: Request, style: Style, modality: Modality, draw: Random, **values: str) -> str:
    """The request in one of its wordings, drawn by `draw`; the brief style always takes its first.

    `values` are what the request needs besides: `field` (derm7pt_choice), `options` (hierarchy_*), `category`
    (hierarchy_middle). Raises `KeyError` for one that is missing.
    """
    found = wordings(request, style, modality)
    return (found[0] if style == "brief" else draw.choice(found)).substitute(values)


@cache
def wordings(request: Request, style: Style, modality: Modality) -> tuple[Template, ...]:
    """The wordings of a request, the style's own prompt first, with all filled in but what depends on the record."""
    text = files("dermo_ray.prompts").joinpath("instruct", f"{request}.txt").read_text(encoding="utf-8").strip()
    stems, _, shared = text.partition("\n\n")
    templates = [f"{stem}\n\n{shared}" if shared else stem for stem in stems.splitlines()]
    if request not in _TASKS:
        return tuple(Template(Template(text).safe_substitute(modality=modality)) for text in templates)
    own = prompt(style, _TASKS[request], modality).removeprefix(f"{IMAGE_PLACEHOLDER}\n")
    contract = own.partition("\n\n")[2]
    filled = [Template(text).substitute(modality=modality, contract=contract) for text in templates]
    return tuple(map(Template, [own, *filled]))
