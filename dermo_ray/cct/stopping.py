"""When the rollouts so far are enough.

`certain` bounds what is still open. A seen rollout's consistency ends between what it is if all that are left disagree
with it, and if all agree. A future one is as consistent with those seen as its answer says, agrees with every other
future one, and has any confidence. The answer is settled where the leader's evidence stays above every other's in the
worst case. `probable` is the Beta criterion of Adaptive-Consistency (Aggarwal et al., EMNLP 2023) with soft votes for
counts.

Invariant: where `certain` says so, no further rollouts change the answer that `aggregate` gives.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from scipy.special import betainc

from dermo_ray.cct.aggregation import aggregate
from dermo_ray.cct.consistency import agreements_with
from dermo_ray.cct.questions import Question
from dermo_ray.cct.rollout import Rollout
from dermo_ray.config.cct import CCTConfig

_MARGIN = 1e-9
"""Of each rollout's weight, which is at most 1: below it a lead may be a matter of rounding."""


def round_sizes(config: CCTConfig, planned: int) -> list[int]:
    """How many rollouts to sample at once, round after round, `planned` in all.

    The first round is the smallest that can be enough, where all of it is sure of one answer.
    """
    if config.stop == "never":
        return [planned]
    unanimous = Question(lambda sample: None)
    first = next(n for n in range(1, planned + 1) if enough([Rollout("", 1.0)] * n, planned - n, config, unanimous))
    left = planned - first
    return [first, *(min(config.round_size, left - done) for done in range(0, left, config.round_size))]


def enough(rollouts: Sequence[Rollout], left: int, config: CCTConfig, question: Question) -> bool:
    """Whether to stop after `rollouts`, with `left` more to sample."""
    if left == 0:
        return True
    if not rollouts or config.stop == "never":
        return False
    if config.stop == "certain":
        return settled(rollouts, left, config, question)
    return lead_probability(rollouts, config, question) >= config.stop_probability


def lead_probability(rollouts: Sequence[Rollout], config: CCTConfig, question: Question) -> float:
    """How probable it is that more rollouts are for the leader than for the runner-up, from a uniform prior.

    Votes count unweighted: a lone dissenter has no consistency yet, and weights would take two of three for unanimous.
    """
    leader = aggregate(rollouts, config, similarity=question.similarity).answer
    votes: dict[str, float] = defaultdict(float)
    for rollout in rollouts:
        for answer, share in rollout.shares.items():
            votes[answer] += share
    first = votes.pop(leader)
    return float(betainc(max(votes.values(), default=0.0) + 1, first + 1, 0.5))


def settled(rollouts: Sequence[Rollout], left: int, config: CCTConfig, question: Question) -> bool:
    """Whether no `left` further rollouts, some of them perhaps without an answer, can change the leading answer.

    A rollout with option probabilities must have its answer's share of them as its confidence.
    """
    if left == 0:
        return True
    leader = aggregate(rollouts, config, similarity=question.similarity).answer
    shares = [rollout.shares for rollout in rollouts]
    bounds = [_weight_bounds(rollouts, i, left, config, question) for i in range(len(rollouts))]
    seen = Counter(rollout.answer for rollout in rollouts)
    future = {
        answer: _future_consistency(answer, seen, left, question) ** config.beta
        for answer in (None, *seen, *(answer for share in shares for answer in share), *question.answers)
    }
    third = max(value for answer, value in future.items() if answer != leader)
    for challenger in future.keys() - {leader}:
        leads = [s.get(leader, 0.0) - (0.0 if challenger is None else s.get(challenger, 0.0)) for s in shares]
        kept = math.fsum((low if lead > 0 else high) * lead for lead, (low, high) in zip(leads, bounds, strict=True))
        lost = left * max(future[challenger], _soft_loss(config.alpha, future[leader], third))
        if kept - lost <= _MARGIN * (len(rollouts) + left):
            return False
    return True


def _soft_loss(alpha: float, leader: float, third: float) -> float:
    """The most that a future rollout can take from the leader's lead without answering the challenger.

    Its weight is c^alpha times `leader` or `third`, its consistency to the power beta if it answers the leader or a
    third; it gives c to its answer and at most 1 - c to the challenger. So the leader loses at most the maximum over c
    of c^alpha (1 - 2c), or of c^alpha (1 - c).
    """
    answering_leader = (alpha / (2 * (1 + alpha))) ** alpha / (1 + alpha)
    answering_third = (alpha / (1 + alpha)) ** alpha / (1 + alpha)
    return max(answering_leader * leader, answering_third * third)


def _weight_bounds(
    rollouts: Sequence[Rollout], index: int, left: int, config: CCTConfig, question: Question
) -> tuple[float, float]:
    """The least and the greatest weight that a seen rollout may end with."""
    rollout, others = rollouts[index], [*rollouts[:index], *rollouts[index + 1 :]]
    low, high = _mean_bounds([question.similarity(rollout.answer, other.answer) for other in others], left)
    if rollout.morphology is not None:
        least, greatest = _mean_bounds(agreements_with(rollout, others), left)
        low, high = (low + least) / 2, (high + greatest) / 2
    trust = rollout.confidence**config.alpha
    return trust * low**config.beta, trust * high**config.beta


def _mean_bounds(values: Sequence[float], left: int) -> tuple[float, float]:
    """Between what the mean of `values`, in [0, 1], may come to lie with up to `left` more of them."""
    total, count = math.fsum(values), len(values) + left
    return total / count, (total + left) / count


def _future_consistency(answer: str | None, seen: Mapping[str, int], left: int, question: Question) -> float:
    """The greatest consistency of a future rollout with this answer, where each answer was `seen` so often.

    None is an answer unlike all that were seen.
    """
    near = 0.0 if answer is None else math.fsum(n * question.similarity(answer, other) for other, n in seen.items())
    greatest = (near + left - 1) / (sum(seen.values()) + left - 1)
    return (greatest + 1) / 2 if question.morphology else greatest
