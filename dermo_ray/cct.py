"""Confidence-consistency test-time inference (CCT): several rollouts about one image become one answer.

The formulas are ours; those of the DermoGPT paper are not public. Rollout i has an answer a_i, a confidence c_i and
possibly a morphology. Its consistency s_i is the mean similarity of its answer to those of the other rollouts,
averaged with the mean agreement of its morphology with theirs where there is one. Its weight is
w_i = c_i^alpha * s_i^beta, and the posterior of an answer is its share of the weight.

Invariants: the posterior sums to 1; the result depends on the set of rollouts, not on their order.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermo_ray.config.cct import CCTConfig
from dermo_ray.morphology import Morphology, agreement

Similarity = Callable[[str, str], float]


@dataclass(frozen=True)
class Rollout:
    """One answer about one view of an image.

    `answer` in canonical spelling (equal strings are one answer); `confidence` in [0, 1]; `morphology` as stated,
    parsed or in the released JSON shape; `option_probabilities` over the options of a multiple choice, which need not
    sum to 1; `view` names the view of the image that was shown.

    Raises `ValueError` for a confidence outside [0, 1] and for option probabilities that are negative, not finite,
    or all 0.
    """

    answer: str
    confidence: float
    morphology: Morphology | Mapping[str, Any] | None = None
    option_probabilities: Mapping[str, float] | None = None
    view: str = "identity"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"the confidence of {self.answer!r} is not in [0, 1]: {self.confidence}")
        if self.option_probabilities is not None:
            values = self.option_probabilities.values()
            if not all(math.isfinite(p) and p >= 0 for p in values) or not any(values):
                raise ValueError(f"option probabilities must be finite, at least 0 and not all 0: {list(values)}")


@dataclass(frozen=True)
class CCTResult:
    """The leading `answer`, its share as `confidence`, the `posterior` in falling order, and whether to `abstain`."""

    answer: str
    confidence: float
    posterior: dict[str, float]
    abstain: bool


def exact(first: str, second: str) -> float:
    """1 for equal answers, else 0."""
    return float(first == second)


def aggregate(
    rollouts: Sequence[Rollout | Mapping[str, Any]], config: CCTConfig, *, similarity: Similarity = exact
) -> CCTResult:
    """Weigh `rollouts` (`Rollout`s, or mappings with its fields as keys) and report the leading answer.

    A rollout gives its weight to its answer; one with `option_probabilities` spreads it over the options in proportion
    to them. `similarity` compares two answers, in [0, 1]: exact equality suits options,
    `dermo_ray.taxonomy.Taxonomy.similarity` diagnoses. A single rollout has nothing to contradict it: consistency 1.
    Where every weight is 0 (no confidence at all, or no two rollouts agree) each rollout counts alike, and the
    result abstains unless tau is 0. Ties go to the answer more rollouts gave, then to the greater summed confidence,
    then to the alphabet.

    Raises `ValueError` for no rollouts, and for a similarity outside [0, 1].
    """
    if not rollouts:
        raise ValueError("CCT needs at least one rollout")
    members = [rollout if isinstance(rollout, Rollout) else Rollout(**rollout) for rollout in rollouts]
    consistencies = _consistencies(members, similarity)
    weights = [r.confidence**config.alpha * s**config.beta for r, s in zip(members, consistencies, strict=True)]
    has_evidence = any(weights)
    posterior = _posterior(members, weights if has_evidence else [1.0] * len(members))
    leader = next(iter(posterior))
    confidence = posterior[leader]
    abstain = confidence < config.tau or (not has_evidence and config.tau > 0)
    return CCTResult(leader, confidence, posterior, abstain)


def _consistencies(rollouts: Sequence[Rollout], similarity: Similarity) -> list[float]:
    """s_i of each rollout, in [0, 1]."""
    result = []
    for i, rollout in enumerate(rollouts):
        others = [other for j, other in enumerate(rollouts) if j != i]
        if not others:
            return [1.0]
        similarities = [similarity(rollout.answer, other.answer) for other in others]
        if not all(0 <= value <= 1 for value in similarities):
            raise ValueError(f"a similarity to {rollout.answer!r} is not in [0, 1]: {similarities}")
        parts = [_mean(similarities)]
        stated = [other.morphology for other in others if other.morphology is not None]
        if rollout.morphology is not None and stated:
            parts.append(_mean([agreement(rollout.morphology, other) for other in stated]))
        result.append(_mean(parts))
    return result


def _posterior(rollouts: Sequence[Rollout], weights: Sequence[float]) -> dict[str, float]:
    """The share of the weight for each answer, in falling order with ties broken."""
    evidence: dict[str, list[float]] = defaultdict(list)
    confidences: dict[str, list[float]] = defaultdict(list)
    for rollout, weight in zip(rollouts, weights, strict=True):
        confidences[rollout.answer].append(rollout.confidence)
        options = rollout.option_probabilities or {rollout.answer: 1.0}
        total = math.fsum(options.values())
        for answer, probability in options.items():
            evidence[answer].append(weight * probability / total)
        evidence[rollout.answer].append(0.0)  # an answer outside its own options still appears
    # fsum rounds once, whatever the order, and so keeps the result independent of the rollouts' order
    sums = {answer: math.fsum(shares) for answer, shares in evidence.items()}
    total = math.fsum(sums.values())

    def rank(answer: str) -> tuple[float, int, float, str]:
        votes = confidences.get(answer, [])
        return (-round(sums[answer] / total, 12), -len(votes), -math.fsum(votes), answer)

    return {answer: sums[answer] / total for answer in sorted(sums, key=rank)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
