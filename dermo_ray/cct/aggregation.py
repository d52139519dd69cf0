"""Several rollouts become one answer with a posterior.

Rollout i has weight w_i = c_i^alpha * s_i^beta, from its confidence and its consistency with the others; the posterior
of an answer is its share of the weight.

Invariants: the posterior sums to 1; the result depends on the set of rollouts, not on their order.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermo_ray.cct.consistency import Similarity, consistencies, exact
from dermo_ray.cct.rollout import Rollout
from dermo_ray.config.cct import CCTConfig


@dataclass(frozen=True)
class CCTResult:
    """The leading `answer`, its share as `confidence`, the `posterior` in falling order, and whether to `abstain`."""

    answer: str
    confidence: float
    posterior: dict[str, float]
    abstain: bool


def aggregate(
    rollouts: Sequence[Rollout | Mapping[str, Any]], config: CCTConfig, *, similarity: Similarity = exact
) -> CCTResult:
    """Weigh `rollouts` (`Rollout`s, or mappings with its fields as keys) and report the leading answer.

    A rollout gives its weight to its answer; one with `option_probabilities` spreads it over the options in proportion
    to them. `similarity` compares two answers, in [0, 1]: exact equality suits options, `by_taxonomy` diagnoses. A
    single rollout has nothing to contradict it: consistency 1. Where every weight is 0 (no confidence at all, or no two
    rollouts agree) each rollout counts alike, and the result abstains unless tau is 0. Ties go to the answer more
    rollouts gave, then to the greater summed confidence, then to the alphabet.

    Raises `ValueError` for no rollouts, and for a similarity outside [0, 1].
    """
    if not rollouts:
        raise ValueError("CCT needs at least one rollout")
    members = [rollout if isinstance(rollout, Rollout) else Rollout(**rollout) for rollout in rollouts]
    weights = weigh(members, config, similarity)
    has_evidence = any(weights)
    posterior = _posterior(members, weights if has_evidence else [1.0] * len(members))
    leader = next(iter(posterior))
    confidence = posterior[leader]
    abstain = confidence < config.tau or (not has_evidence and config.tau > 0)
    return CCTResult(leader, confidence, posterior, abstain)


def weigh(rollouts: Sequence[Rollout], config: CCTConfig, similarity: Similarity = exact) -> list[float]:
    """w_i of each rollout, in [0, 1]. Raises `ValueError` for a similarity outside [0, 1]."""
    agreed = consistencies(rollouts, similarity)
    return [r.confidence**config.alpha * s**config.beta for r, s in zip(rollouts, agreed, strict=True)]


def _posterior(rollouts: Sequence[Rollout], weights: Sequence[float]) -> dict[str, float]:
    """The share of the weight for each answer, in falling order with ties broken."""
    evidence: dict[str, list[float]] = defaultdict(list)
    confidences: dict[str, list[float]] = defaultdict(list)
    for rollout, weight in zip(rollouts, weights, strict=True):
        confidences[rollout.answer].append(rollout.confidence)
        for answer, share in rollout.shares.items():
            evidence[answer].append(weight * share)
        evidence[rollout.answer].append(0.0)  # an answer outside its own options still appears
    # fsum rounds once, whatever the order, and so keeps the result independent of the rollouts' order
    sums = {answer: math.fsum(shares) for answer, shares in evidence.items()}
    total = math.fsum(sums.values())

    def rank(answer: str) -> tuple[float, int, float, str]:
        votes = confidences.get(answer, [])
        return (-round(sums[answer] / total, 12), -len(votes), -math.fsum(votes), answer)

    return {answer: sums[answer] / total for answer in sorted(sums, key=rank)}
