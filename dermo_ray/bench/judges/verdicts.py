"""The JSON that a judge answers with, and how it is read.

A judge names the claims and gives each a verdict; the counting is ours, so that T is always the number of claims that
got one. Invariant: `read` takes no text that doesn't fit `verdict_schema` or that names no claim.
"""

import json
from collections import Counter
from typing import Any, get_args

from dermo_ray.bench.judges.rubrics import (
    DIAGNOSIS_SIMILARITY,
    MAX_CLAIMS,
    SHARES,
    ClaimVerdict,
    Counts,
    OpenTask,
    Verdict,
)

CLAIMS_KEY = "claims"
EXTRAS_KEY = "incorrect_extras"
MORPHOLOGY_KEY = "morphology_similarity"
DIAGNOSIS_KEY = "diagnosis"


def verdict_schema(task: OpenTask) -> dict[str, Any]:
    """The JSON Schema of a verdict, of keywords that OpenAI's strict mode and vLLM's grammars know."""
    claim = _object({"claim": {"type": "string"}, "verdict": {"type": "string", "enum": list(get_args(ClaimVerdict))}})
    properties: dict[str, Any] = {
        CLAIMS_KEY: {"type": "array", "items": claim},
        EXTRAS_KEY: {"type": "array", "items": {"type": "string"}},
    }
    if "morphology" in SHARES[task]:
        properties[MORPHOLOGY_KEY] = {"type": "number"}
    if "diagnosis" in SHARES[task]:
        properties[DIAGNOSIS_KEY] = {"type": "string", "enum": list(DIAGNOSIS_SIMILARITY)}
    return _object(properties)


def read(text: str, task: OpenTask) -> Verdict | None:
    """The verdict in `text`, or None where it doesn't fit. Of more than 25 claims the first 25 count."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets nested beyond the interpreter's limit
        return None
    if not isinstance(value, dict) or value.keys() != verdict_schema(task)["properties"].keys():
        return None
    claims, extras = value[CLAIMS_KEY], value[EXTRAS_KEY]
    if not isinstance(claims, list) or not claims or not all(map(_is_claim, claims)):
        return None
    if not isinstance(extras, list) or not all(isinstance(extra, str) for extra in extras):
        return None
    morphology, diagnosis = value.get(MORPHOLOGY_KEY), value.get(DIAGNOSIS_KEY)
    if MORPHOLOGY_KEY in value and not _is_share(morphology):
        return None
    if DIAGNOSIS_KEY in value and diagnosis not in list(DIAGNOSIS_SIMILARITY):  # a list: the value may be unhashable
        return None
    counts = Counter(claim["verdict"] for claim in claims[:MAX_CLAIMS])
    return Verdict(Counts(**counts, incorrect_extras=len(extras)), morphology, diagnosis)


def _is_claim(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"claim", "verdict"}
        and isinstance(value["claim"], str)
        and value["verdict"] in get_args(ClaimVerdict)
    )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
