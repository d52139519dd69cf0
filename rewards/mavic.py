"""The MAVIC reward of one completion, with everything needed to see why it is what it is.

The paper (arXiv 2601.01868) names the components but gives no formula; weights, gates and costs here are ours, and
settings. Invariant: the total is finite and in [0, 1] for every string.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dermo_ray.completion import parse
from dermo_ray.config import RewardConfig
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy
from rewards.concepts import Concepts
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


def mavic_reward(text: str, truth: GroundTruth, config: RewardConfig, concepts: Concepts | None = None) -> Reward:
    """Score a completion against its reference; `concepts` is the concept model's view of the same image.

    The total is 0 where no applicable term has a weight. Raises `ValueError` if a term leaves [0, 1], which no
    text can bring about but a faulty concept model can; `UserError` if the taxonomy of the settings can't be read.
    """
    case = Case(parse(text, truth.task), truth, config, _taxonomy(config.taxonomy), concepts)
    terms = {name: value for name, term in TERMS.items() if (value := term(case)) is not None}
    for name, value in terms.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"the reward term {name} must lie in [0, 1], but is {value}")
    gate = GATES[config.gate](case, terms)
    gated = gate.terms & terms.keys()
    weights = {name: getattr(config.weights, name) for name in terms}
    counted = {name: value * (gate.multiplier if name in gated else 1.0) for name, value in terms.items()}
    # Divided after summing: rounding is monotone, so the quotient is exactly 1 at best and never above.
    whole = sum(weights.values()) or 1.0
    total = sum(weights[name] * counted[name] for name in terms) / whole
    return Reward(
        total=total,
        terms=terms,
        faults=case.faults,
        weights={name: weight / whole for name, weight in weights.items()},
        gate=gate.multiplier if gated else 1.0,
        gated=gated,
    )


@cache
def _taxonomy(path: Path | None) -> Taxonomy:
    return Taxonomy.load(path)
