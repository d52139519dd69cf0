"""What an open answer says: its prose, its morphology and its diagnosis, in whatever form it is written.

Judges see the content, not the form, so reading is lenient where `dermo_ray.completion.parse` is strict: tags may be
missing, JSON may stand in a fence or in the middle of a sentence, its keys in Title Case or snake_case.

Invariant: `parts` returns for every string there is, in time linear in its length.
"""

import json
import re
from dataclasses import dataclass

from dermo_ray.bench.tasks.items import BenchItem
from dermo_ray.completion import MAX_LABEL_CHARS, MAX_MORPH_CHARS
from dermo_ray.morphology import SCHEMA_KEYS, Morphology, MorphologyError

_MORPHOLOGY = re.compile(r'\{\s{0,100}"(morphological_features_(?:skincon|derm7pt))"\s{0,100}:', re.IGNORECASE)
_KEYS = {key.casefold(): key for key in SCHEMA_KEYS}
_REASONING = re.compile(r"<reasoning>(.*?)(?:</reasoning>|$)", re.IGNORECASE | re.DOTALL)
_DIAGNOSIS = re.compile(r"<final_diagnosis>([^<]*)(?:</final_diagnosis>|$)", re.IGNORECASE)
_SPOKEN_DIAGNOSIS = re.compile(r"\bdiagnosis\W{0,4}(?:is\b|[:=])[*\s]{0,4}([^\n]+)", re.IGNORECASE)
_TAG_OR_FENCE = re.compile(r"</?(?:reasoning|morph|final_diagnosis)>|```(?:json)?", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The parts of a text; None for those it does not have."""

    prose: str
    """The reasoning where it is marked as such, else all that is neither morphology nor diagnosis; may be empty."""
    morphology: Morphology | None
    diagnosis: str | None


def parts(text: str) -> Parts:
    """The parts of an answer or a reference; the first morphology and the last diagnosis count."""
    morphology, rest = _morphology(text)
    diagnosis = None
    if stated := _DIAGNOSIS.findall(rest):
        diagnosis, rest = stated[-1], _DIAGNOSIS.sub("\n", rest)
    elif spoken := _SPOKEN_DIAGNOSIS.findall(rest):
        diagnosis = spoken[-1]
    reasoning = _REASONING.search(rest)
    prose = _TAG_OR_FENCE.sub("\n", reasoning[1] if reasoning else rest).strip()
    named = diagnosis.strip(" \t\r\n*_\"'`.") if diagnosis else ""
    return Parts(prose, morphology, named if 0 < len(named) <= MAX_LABEL_CHARS else None)


def comparison(item: BenchItem, answer: str) -> tuple[Parts, Parts]:
    """What the answer to an open item states and what its reference states, for a comparison without a judge.

    What is known of the item beside the reference text, morphology or diagnosis, is part of the reference.
    """
    written = parts(item.reference)
    known = Morphology.from_json(item.facts.morphology) if item.facts.morphology is not None else written.morphology
    return parts(answer), Parts(written.prose, known, item.facts.label or written.diagnosis)


def _morphology(text: str) -> tuple[Morphology | None, str]:
    """The first morphology in a text, whatever else its JSON object holds, and the text without that object."""
    match = _MORPHOLOGY.search(text)
    if match is None:
        return None, text
    try:
        value, length = json.JSONDecoder().raw_decode(text[match.start() : match.start() + MAX_MORPH_CHARS])
        morphology = Morphology.from_json({_KEYS[match[1].casefold()]: value[match[1]]})
    except (ValueError, RecursionError, MorphologyError):  # what a model writes need not be JSON
        return None, text
    return morphology, f"{text[: match.start()]}\n{text[match.start() + length :]}"
