"""What the policy wrote, taken apart, with every format fault named; and the inverse.

`task1` is `<morph>{JSON}</morph>` and one paragraph. `task3` is `<reasoning>`, `<morph>`, `<final_diagnosis>`, in
this order, and nothing else. A block runs from its opening tag to its own closing tag with no other of these tags
between; all other text is outside. Tags are matched exactly: escaped, spaced or look-alike tags are plain text.

Invariants: `parse` returns for every string there is, in time linear in its length. Nothing ambiguous is resolved
in the writer's favour: a block written twice, or a diagnosis block with several labels, states nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dermo_ray.morphology import Morphology, MorphologyError
from dermo_ray.records import Task

BLOCKS: Mapping[Task, tuple[str, ...]] = MappingProxyType(
    {"task1": ("morph",), "task3": ("reasoning", "morph", "final_diagnosis")}
)
"""The blocks of each task, in order."""

MAX_MORPH_CHARS = 16_384
"""A longer `<morph>` block is not read as JSON: either vocabulary, stated whole and indented, takes a tenth of it."""

MAX_LABEL_CHARS = 256
"""A longer diagnosis is no label. Comparing labels needs Unicode normalisation, whose worst case is quadratic."""

_TAG = re.compile(r"(</?(?:reasoning|morph|final_diagnosis)>)")
_CLOSING = {f"<{kind}>": f"</{kind}>" for kind in BLOCKS["task3"]}
_SPECIAL_TOKENS = frozenset({
    "<image>", "<video>", "<audio>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>",
    "<ref>", "</ref>", "<box>", "</box>", "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>", "<mask>",
    "<im_start>", "<im_end>", "<im_patch>",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>",
    "<end_of_utterance>", "<fake_token_around_image>", "<global-img>",
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
})  # fmt: skip
"""Placeholders and special tokens that are written out: of many families; InternVL; Llama 2 and LLaVA; Gemma; Idefics;
of those that think and call tools. None of them is a word of a report."""
_ANGLED = re.compile(r"<[^<>]{1,24}>")
"""What may be one of them; looking for the shape first takes half the time of looking for each at every bracket."""
_SPECIAL_TOKEN_FAMILIES = re.compile(
    r"<(?:\|[^|<>]*\||\uff5c[^\uff5c<>]*\uff5c|</?SYS>"  # Qwen, Llama 3, Phi and others; DeepSeek; Llama 2
    r"|unused\d{1,4}|loc\d{3,4}|seg\d{3,4}|row_\d{1,2}_col_\d{1,2})>"  # Gemma and PaliGemma; Idefics
)
_SQUARE_SPECIAL_TOKEN = re.compile(r"\[(?:/?INST|IMG(?:_BREAK|_END)?)\]")  # Llama 2, Mistral, Pixtral
_LABEL_SEPARATOR = re.compile(r"[;|]|\b(?:or|vs|versus)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Completion:
    """A parsed completion. A part that is missing, malformed or ambiguous is None.

    `description` is the paragraph of task1; `reasoning` and `diagnosis` are parts of task3, `diagnosis` as written.
    `faults` holds names of `FaultCosts` fields, one entry for each block concerned. `wrong_schema` is never among
    them: only a reader who knows the image's modality can tell.
    """

    task: Task
    reasoning: str | None = None
    morphology: Morphology | None = None
    description: str | None = None
    diagnosis: str | None = None
    faults: tuple[str, ...] = ()


def parse(text: str, task: Task = "task3") -> Completion:
    """Read a completion of `task`; never raises for a string."""
    blocks, gaps = _split(text)
    required = BLOCKS[task]
    contents = {kind: [content for name, content in blocks if name == kind] for kind in required}
    faults = ["missing_block" for kind in required if not contents[kind]]
    faults += ["repeated_block" for kind in required if len(contents[kind]) > 1]
    order = list(dict.fromkeys(name for name, _ in blocks if name in required))
    if order != [kind for kind in required if kind in order]:
        faults.append("wrong_order")
    single = {kind: found[0] for kind, found in contents.items() if len(found) == 1}

    completion = Completion(task)
    if task == "task1":
        description, description_faults = _read_description(blocks, gaps)
        completion = replace(completion, description=description)
        faults += description_faults
    elif any(gap.strip() for gap in gaps):
        faults.append("text_outside")
    if "morph" in single:
        morphology, morphology_faults = _read_morphology(single["morph"])
        completion = replace(completion, morphology=morphology)
        faults += morphology_faults
    if "reasoning" in single:
        reasoning = _prose(single["reasoning"])
        completion = replace(completion, reasoning=reasoning)
        faults += [] if reasoning else ["empty_block"]
    if "final_diagnosis" in single:
        diagnosis = _prose(single["final_diagnosis"])
        if diagnosis is None:
            faults.append("empty_block")
        elif not is_one_label(diagnosis):
            faults.append("several_labels")
        else:
            completion = replace(completion, diagnosis=diagnosis)
    if _holds_special_token(text):
        faults.append("forbidden_token")
    return replace(completion, faults=tuple(faults))


def render(completion: Completion) -> str:
    """The canonical text of a faultless completion, as supervised targets are written: `parse` gives it back.

    Raises `ValueError` where that is impossible: a part is missing, holds a tag, isn't stripped of white space.
    """
    morph = "" if completion.morphology is None else json.dumps(completion.morphology.to_json())
    if completion.task == "task1":
        text = f"<morph>{morph}</morph>\n{completion.description}"
    else:
        text = (
            f"<reasoning>{completion.reasoning}</reasoning>\n<morph>{morph}</morph>\n"
            f"<final_diagnosis>{completion.diagnosis}</final_diagnosis>"
        )
    read = parse(text, completion.task)
    if read.faults or read != completion:
        cause = ", ".join(read.faults) or "it reads back with other parts"
        raise ValueError(f"no faultless {completion.task} text says this ({cause}): {completion!r}")
    return text


def is_one_label(text: str) -> bool:
    """Whether a diagnosis may name one label: one short line, no semicolon or bar, no "or" or "versus".

    Lists joined in other ways (commas, "and", slashes) pass here, as they occur inside labels; as a whole
    they are no label of a taxonomy.
    """
    return len(text) <= MAX_LABEL_CHARS and len(text.splitlines()) == 1 and not _LABEL_SEPARATOR.search(text)


def _holds_special_token(text: str) -> bool:
    return (
        not _SPECIAL_TOKENS.isdisjoint(_ANGLED.findall(text))
        or _SPECIAL_TOKEN_FAMILIES.search(text) is not None
        or _SQUARE_SPECIAL_TOKEN.search(text) is not None
    )


def _split(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The blocks as (name, content), and the texts before, between and after them (one more than blocks)."""
    parts = _TAG.split(text)  # text, tag, text, tag, ..., text
    blocks: list[tuple[str, str]] = []
    gaps: list[str] = []
    gap_start, tag = 0, 1
    while tag + 2 < len(parts):
        if _CLOSING.get(parts[tag]) == parts[tag + 2]:
            gaps.append("".join(parts[gap_start:tag]))
            blocks.append((parts[tag][1:-1], parts[tag + 1]))
            gap_start = tag + 3
            tag += 4
        else:
            tag += 2
    gaps.append("".join(parts[gap_start:]))
    return blocks, gaps


def _read_description(blocks: list[tuple[str, str]], gaps: list[str]) -> tuple[str | None, list[str]]:
    """The paragraph after the last block, and what is wrong with it or with the text around the blocks."""
    *before, last = gaps if blocks else [*gaps, ""]
    description = _prose(last)
    faults = [] if description else ["missing_block"]
    foreign = any(name != "morph" for name, _ in blocks) or _TAG.search(last) is not None
    paragraphs = 1 + sum(not line.strip() for line in last.strip().splitlines())
    if foreign or paragraphs > 1 or any(gap.strip() for gap in before):
        faults.append("text_outside")
    return description, faults


def _read_morphology(content: str) -> tuple[Morphology | None, list[str]]:
    value = _read_json_object(content)
    if value is None:
        return None, ["invalid_json"]
    try:
        morphology = Morphology.from_json(value)
    except MorphologyError:
        return None, ["wrong_keys"]
    faults = ["outside_vocabulary"] if morphology.unknown or morphology.repeated else []
    faults += ["missing_field"] if morphology.missing else []
    return morphology, faults


def _read_json_object(content: str) -> dict[str, Any] | None:
    if len(content) > MAX_MORPH_CHARS:
        return None
    try:
        value = json.loads(content, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # RecursionError: brackets nested beyond the interpreter's limit
        return None
    return value if isinstance(value, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is written twice")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _prose(content: str) -> str | None:
    """The stripped text, or None where it holds no letter or digit."""
    stripped = content.strip()
    return stripped if any(map(str.isalnum, stripped)) else None
