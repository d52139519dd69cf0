"""What a teacher is asked about an image.

Invariants: a question about morphology does not hold the label; one about a diagnosis holds it and the morphology.
A question's `key` covers all that its answer depends on, the picture's content included (stored images are named by
it), so that an answer may be used again wherever the key is the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from dermo_ray import prompts
from dermo_ray.config.teacher import TeacherSettings
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.teacher.schema import Kind, answer_schema
from dermo_ray.morphology import Modality, Morphology

_VERSION_CHARACTERS = 12


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    kind: Kind
    modality: Modality
    image: str
    """Path of the stored image, relative to the prepared folder."""
    prompt: str
    """What is asked, without the image."""
    schema: Mapping[str, Any]
    """The JSON Schema of the answer."""
    key: str
    """Under what its answer is kept."""


def question(
    kind: Kind, sample: StoredSample, settings: TeacherSettings, morphology: Morphology | None = None
) -> Question:
    """The question; `morphology` is the known coding, which an observation goes without."""
    schema = answer_schema(kind, sample.modality)
    facts = {
        "modality": sample.modality,
        "morphology": "" if morphology is None else json.dumps(morphology.to_json()),
        "diagnosis": sample.label or "",
        "schema": json.dumps(schema),
    }
    prompt = _template(kind).substitute(facts)
    depends_on = {
        "image": sample.image,
        "prompt": prompt,
        "teacher": _teacher(settings),
        "sampling": [settings.temperature, settings.max_tokens, settings.max_side],
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return Question(kind, sample.modality, sample.image, prompt, schema, key)


@cache
def prompt_version(kind: Kind, modality: Modality) -> str:
    """A short hash of the template and of the schema that stands in it: another wording is another version."""
    text = _template(kind).template + json.dumps(answer_schema(kind, modality))
    return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_CHARACTERS]


def _teacher(settings: TeacherSettings) -> dict[str, Any]:
    """What tells one teacher from another: not the address of a server, but the whole path of a model of our own."""
    if settings.endpoint is not None:
        return settings.endpoint.model_dump(mode="json", include={"model", "extra_body"})
    assert settings.pool is not None
    return settings.pool.model.model_dump(mode="json", include={"path", "dtype"})


@cache
def _template(kind: Kind) -> Template:
    return Template(files(prompts).joinpath("teacher", f"{kind}.txt").read_text(encoding="utf-8").strip())
