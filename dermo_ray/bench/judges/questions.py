"""What a judge is asked about an answer.

Invariants: reference and answer stand in the prompt as JSON strings, so that no answer can end its own quotation; a
question's key covers all that its verdict depends on, the number of the vote included.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from types import MappingProxyType

from dermo_ray import prompts
from dermo_ray.bench.judges.answers import OpenAnswer
from dermo_ray.bench.judges.rubrics import MAX_CLAIMS, SHARES, OpenTask
from dermo_ray.bench.judges.verdicts import verdict_schema
from dermo_ray.config.judge import JudgeSettings

_SOURCE: Mapping[OpenTask, str] = MappingProxyType(
    {
        "t1.1": "the description",
        "t1.2": "the paragraph (not the <morph> block)",
        "t3.1": "the reasoning (not the final diagnosis)",
        "t3.2": "the reasoning (neither the <morph> block nor the final diagnosis)",
    }
)
"""What the claims are taken from."""


@dataclass(frozen=True)
class JudgeQuestion:
    """One vote on one answer."""

    task: OpenTask
    prompt: str
    key: str
    """Under what the verdict is kept."""


def question(answer: OpenAnswer, vote: int, settings: JudgeSettings) -> JudgeQuestion:
    """The question for vote number `vote`."""
    prompt = _template(answer.task).substitute(reference=_quoted(answer.reference), answer=_quoted(answer.answer))
    depends_on = {
        "prompt": prompt,
        "judge": settings.endpoint.model_dump(mode="json", include={"model", "extra_body"}),
        "sampling": [settings.temperature, settings.max_tokens],
        "vote": vote,
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return JudgeQuestion(answer.task, prompt, key)


@cache
def prompt_version(task: OpenTask) -> str:
    """A short hash of the template and of the schema that stands in it: another wording is another version."""
    return hashlib.sha256(_template(task).template.encode()).hexdigest()[:12]


@cache
def _template(task: OpenTask) -> Template:
    """The frame with the task's steps and schema filled in; `$reference` and `$answer` are left."""
    steps = ["lenient_claims" if task == "t3.2" else "claims"]
    steps += [part for part in ("morphology", "diagnosis") if part in SHARES[task]]
    facts = {"source": _SOURCE[task], "limit": MAX_CLAIMS}
    text = "\n\n".join(_read(name).substitute(facts) for name in steps)
    return Template(_read("frame").safe_substitute(steps=text, schema=json.dumps(verdict_schema(task))))


def _quoted(text: str) -> str:
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)  # half a surrogate can't be sent


def _read(name: str) -> Template:
    return Template(files(prompts).joinpath("judge", f"{name}.txt").read_text(encoding="utf-8").strip())
