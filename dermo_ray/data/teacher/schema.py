"""The JSON that a teacher answers with, built from the closed vocabularies, and how an answer is read.

Invariant: `read` takes every text that fits `answer_schema`; of others it takes only those that spell a term of the
vocabulary in another case. The keys are those of DermoGPT's synthesis prompts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dermo_ray.morphology import (
    DERM7PT_FIELDS,
    DERM7PT_KEY,
    SCHEMA_FOR_MODALITY,
    SKINCON_FEATURES,
    SKINCON_KEY,
    Modality,
    Morphology,
    MorphologyError,
    Schema,
)

Kind = Literal["observation", "description", "reasoning"]
"""What is asked: look and code without knowing anything, describe a known coding, justify a known diagnosis."""

DESCRIPTION_KEY = "detailed_description"
OTHERS_KEY = "morphological_features_others"
REASONING_KEY = "reasoning"
DIAGNOSIS_KEY = "final_diagnosis"

_CODING_KEYS: dict[Schema, str] = {"skincon": SKINCON_KEY, "derm7pt": DERM7PT_KEY}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Reply:
    """An answer that fits its schema; a part that its kind doesn't have is None."""

    description: str | None = None
    morphology: Morphology | None = None
    reasoning: str | None = None
    diagnosis: str | None = None
    """What the reasoning concludes with, as written."""


def answer_schema(kind: Kind, modality: Modality) -> dict[str, Any]:
    """The JSON Schema of an answer."""
    if kind == "reasoning":
        return _object({REASONING_KEY: {"type": "string"}, DIAGNOSIS_KEY: {"type": "string"}})
    described: dict[str, Any] = {DESCRIPTION_KEY: {"type": "string"}}
    if kind == "description":
        return _object(described)
    others = {"type": "array", "items": {"type": "string"}}
    return _object(described | {_coding_key(modality): _coding(modality), OTHERS_KEY: others})


def decoding_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as it is sent for guided decoding: OpenAI's strict mode and vLLM's grammars lack `uniqueItems`."""
    return {
        key: decoding_schema(value) if isinstance(value, Mapping) else value
        for key, value in schema.items()
        if key != "uniqueItems"
    }


def read(text: str, kind: Kind, modality: Modality) -> Reply | None:
    """The answer in `text`, or None where it doesn't fit `answer_schema`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets nested beyond the interpreter's limit
        return None
    if not isinstance(value, dict) or value.keys() != answer_schema(kind, modality)["properties"].keys():
        return None
    if not all(_is_text(value[key]) for key in (DESCRIPTION_KEY, REASONING_KEY, DIAGNOSIS_KEY) if key in value):
        return None
    reply = Reply(value.get(DESCRIPTION_KEY), None, value.get(REASONING_KEY), value.get(DIAGNOSIS_KEY))
    if kind != "observation":
        return reply
    others = value[OTHERS_KEY]
    if not isinstance(others, list) or not all(map(_is_text, others)):
        return None
    key = _coding_key(modality)
    try:
        morphology = Morphology.from_json({key: value[key]})
    except MorphologyError:
        return None
    return Reply(reply.description, morphology) if morphology.closed else None


def _is_text(value: object) -> bool:
    """Whether it is a string that can be written down: half a surrogate pair, escaped in JSON, can't."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _coding_key(modality: Modality) -> str:
    return _CODING_KEYS[SCHEMA_FOR_MODALITY[modality]]


def _coding(modality: Modality) -> dict[str, Any]:
    if SCHEMA_FOR_MODALITY[modality] == "skincon":
        terms = {"type": "string", "enum": list(SKINCON_FEATURES)}
        return {"type": "array", "items": terms, "uniqueItems": True}
    return _object({name: {"type": "string", "enum": list(values)} for name, values in DERM7PT_FIELDS.items()})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
