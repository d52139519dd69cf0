"""A group laid out for a person: each completion token by token, and every part of its reward with its reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tokenizers import Tokenizer

from dermo_ray.bench.findings import checklist
from dermo_ray.config import RewardConfig
from dermo_ray.config.reward import FaultCosts, TermWeights
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy
from dermo_ray.view.tokens import pieces

_DIGITS = 4
"""Of a token's log-probability; more would only make the answer longer."""


def explained(
    rows: Sequence[ScoredCompletion], reward: RewardConfig, taxonomy: Taxonomy, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """A group as the page shows it, from its rows (at least one): reference, checklist, completions."""
    truth = rows[0].truth
    return {
        "truth": truth.model_dump(mode="json", include={"task", "modality", "final_label", "taxon_path"}),
        "findings": [asdict(finding) for finding in checklist(truth, [row.text for row in rows], taxonomy)],
        "completions": [_completion(row, reward, tokenizer) for row in rows],
    }


def _completion(row: ScoredCompletion, reward: RewardConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    shown = row.model_dump(include={"sample", "version", "text", "tokens", "finish_reason", "logprob", "advantage"})
    return shown | {
        "reward": row.reward,
        "gate": row.gate,
        "gate_reason": gate_reason(row, reward),
        "terms": [
            {
                "name": name,
                "value": value,
                "weight": row.weights[name],
                "gated": name in row.gated,
                "adds": row.contribution(name),
                "meaning": _help(TermWeights, name) or "A term of one's own.",
            }
            for name, value in row.terms.items()
        ],
        "faults": [
            {
                "name": name,
                "count": count,
                "cost": getattr(reward.faults, name, None),
                "reason": _help(FaultCosts, name),
            }
            for name, count in Counter(row.faults).items()
        ],
        "token_level": _tokens(row, tokenizer),
    }


def gate_reason(row: ScoredCompletion, reward: RewardConfig) -> str | None:
    """Why the gate took something off a completion's reward; None where it is open."""
    if not row.gated or row.gate >= 1:
        return None
    names = " and ".join(sorted(row.gated))
    if reward.gate == "schema":
        return f"{names} count only where the JSON is valid and its schema is the one for the modality."
    anchor = next((name for name in ("morphology", "consistency") if name in row.terms), None)
    if anchor is None:
        return f"{names} count to {100 * row.gate:.0f} %."
    return f"{names} count to {100 * row.gate:.0f} %: {anchor} is {row.terms[anchor]:.2f}, full from {reward.tau:g} on."


def _tokens(row: ScoredCompletion, tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """Texts, log-probabilities and versions of the tokens; None where the run did not record them."""
    if tokenizer is None or row.token_ids is None:
        return None
    return {
        "pieces": pieces(tokenizer, row.token_ids),
        "engine": _rounded(row.token_logprobs),
        "learner": _rounded(row.learner_logprobs),
        "versions": row.token_versions,
    }


def _rounded(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [round(value, _DIGITS) for value in values]


def _help(settings: type[FaultCosts] | type[TermWeights], name: str) -> str | None:
    field = settings.model_fields.get(name)
    return None if field is None else field.description
