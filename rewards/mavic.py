"""The MAVIC reward of completions, with everything needed to see why it is what it is.

The paper (arXiv 2601.01868) names the components but gives no formula; weights, gates and costs here are ours, and
settings. Invariant: the total is finite and in [0, 1] for every string.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from dermo_ray.completion import parse
from dermo_ray.config import RewardConfig
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy
from rewards.concepts import Concepts, diagnosis_fits, knows
from rewards.extra import extra_terms
from rewards.gates import GATES
from rewards.terms import TERMS, Case


@dataclass(frozen=True)
class Reward:
    """A total and its parts. `terms` and `weights` (which sum to 1) hold the terms that apply, before the gate.

    `gate` is the multiplier on the terms named in `gated` (1 where there is none):
    total = sum over terms of weight * term * (gate if gated else 1).
    """

    total: float
    terms: dict[str, float]
    faults: tuple[str, ...]
    weights: dict[str, float]
    gate: float
    gated: frozenset[str]
    diagnosis: str | None = None
    """The label that was stated: canonical where it is in the tree, else as it was written; None without one."""


class Scorer:
    """Scores batches of completions as one `RewardConfig` says; its tree and its extra terms are loaded once."""

    def __init__(self, config: RewardConfig) -> None:
        """Load both. Raises `UserError` where the tree can't be read or an extra term can't be made."""
        self._config = config
        self._taxonomy = _taxonomy(config.taxonomy)
        self._extra = extra_terms(config)
        self._weights = config.weights.model_dump() | {term.name: term.weight for term in self._extra}

    def score(
        self, completions: Sequence[str], truths: Sequence[GroundTruth], concepts: Concepts | None = None
    ) -> list[Reward]:
        """The reward of each completion against its own reference, in order.

        `concepts` is the concept model's view of the image, one for all completions. A total is 0 where no applicable
        term has a weight. Raises `UserError` where an extra term fails; `ValueError` if a term of MAVIC leaves [0, 1],
        which no text can bring about but a faulty concept model can.
        """
        extra = {term.name: term.scores(completions, truths) for term in self._extra}
        cases = [
            Case(parse(text, truth.task), truth, self._config, self._taxonomy, concepts)
            for text, truth in zip(completions, truths, strict=True)
        ]
        if concepts is not None:
            cases = _with_diagnosis_fits(cases, concepts)
        rewards = []
        for position, case in enumerate(cases):
            terms = {name: value for name, term in TERMS.items() if (value := term(case)) is not None}
            for name, value in terms.items():
                if not 0.0 <= value <= 1.0:
                    raise ValueError(f"the reward term {name} must lie in [0, 1], but is {value}")
            more = {name: value for name, scores in extra.items() if (value := scores[position]) is not None}
            rewards.append(self._compose(case, terms | more))
        return rewards

    def _compose(self, case: Case, terms: dict[str, float]) -> Reward:
        gate = GATES[self._config.gate](case, terms)
        gated = gate.terms.intersection(terms)
        counted = {name: value * (gate.multiplier if name in gated else 1.0) for name, value in terms.items()}
        # Divided after summing: rounding is monotone, so the quotient is exactly 1 at best and never above.
        whole = sum(self._weights[name] for name in terms) or 1.0
        return Reward(
            total=sum(self._weights[name] * counted[name] for name in terms) / whole,
            terms=terms,
            faults=case.faults,
            weights={name: self._weights[name] / whole for name in terms},
            gate=gate.multiplier if gated else 1.0,
            gated=gated,
            diagnosis=case.diagnosis,
        )


def mavic_reward(text: str, truth: GroundTruth, config: RewardConfig, concepts: Concepts | None = None) -> Reward:
    """Score one completion against its reference, as `Scorer.score` does; a `Scorer` is for more than one."""
    return Scorer(config).score([text], [truth], concepts)[0]


def _with_diagnosis_fits(cases: Sequence[Case], concepts: Concepts) -> list[Case]:
    judged = [(case, case.statement, _can_be_judged(case, concepts)) for case in cases]
    asked = [statement for _, statement, can_be in judged if can_be and statement is not None]
    fits = iter(diagnosis_fits(concepts, asked))
    return [
        case if statement is None else replace(case, diagnosis_fit=next(fits) if can_be else 1.0)
        for case, statement, can_be in judged
    ]


def _can_be_judged(case: Case, concepts: Concepts) -> bool:
    """Not where the model never met the right label: it would hold that one against a completion, and no wrong one."""
    right = None if case.truth.final_label is None else case.taxonomy.canonical(case.truth.final_label)
    return right is None or knows(concepts, case.truth.modality, right)


@cache
def _taxonomy(path: Path | None) -> Taxonomy:
    return Taxonomy.load(path)
