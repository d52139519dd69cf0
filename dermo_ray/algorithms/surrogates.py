"""What a token's loss is before corrections: the probability ratio, and the surrogate objective made of it.

Invariants: everything is [B, T], 0 outside the mask where its arguments are; gradients reach the learner's
log-probabilities alone, and a ratio is finite for all finite log-probabilities.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from dermo_ray.algorithms.registry import lookup

_LARGEST_LOG_RATIO = 20.0
"""e^20 = 5e8: far beyond any clip bound, and an advantage of 0 times it is still 0."""


def _token_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """PPO's ratio of each token by itself (arXiv 1707.06347, equation 6)."""
    return log_ratio


def _sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """GSPO's length-normalised ratio of the sequence (arXiv 2507.18071, s_i), at each of its tokens."""
    lengths = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return (log_ratio.sum(dim=-1, keepdim=True) / lengths).expand_as(log_ratio)


RATIOS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token": _token_log_ratio,
    "sequence": _sequence_log_ratio,
}


def probability_ratio(log_ratio: Tensor, mask: Tensor, ratio: str) -> Tensor:
    """Policy over old policy at each token from the logarithm of it, both [B, T]; `ratio` is one of `RATIOS`."""
    return lookup(RATIOS, ratio, "ratio")(log_ratio, mask).clamp(max=_LARGEST_LOG_RATIO).exp()


class Surrogate(NamedTuple):
    """Losses [B, T], and where the lower and the upper clip bound act on them."""

    losses: Tensor
    below: Tensor
    above: Tensor


def ppo(logprobs: Tensor, ratio: Tensor, advantage: Tensor, low: float, high: float) -> Surrogate:
    """-min(r A, clip(r, 1 - low, 1 + high) A): PPO (arXiv 1707.06347, equation 7).

    Separate bounds are DAPO's clip-higher (arXiv 2503.14476, section 3.1). A clipped token has no gradient.
    """
    losses = -(ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)
    return Surrogate(losses, (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0))


def cispo(logprobs: Tensor, ratio: Tensor, advantage: Tensor, low: float, high: float) -> Surrogate:
    """-clip(r, 1 - low, 1 + high) A log pi, no gradient through r: CISPO (MiniMax-M1, arXiv 2506.13585).

    Every token keeps a gradient; `low` 1 leaves out the lower bound, as the paper does.
    """
    weight = ratio.detach().clamp(1 - low, 1 + high)
    return Surrogate(-weight * advantage * logprobs, ratio < 1 - low, ratio > 1 + high)


SURROGATES: Mapping[str, Callable[[Tensor, Tensor, Tensor, float, float], Surrogate]] = {"ppo": ppo, "cispo": cispo}


def exceeds_dual_clip(losses: Tensor, advantage: Tensor, dual_clip: float) -> Tensor:
    """Where the loss of a token with a negative advantage is above -dual_clip * A (arXiv 1912.09729).

    There a large ratio would make the loss, and its gradient, as large as it likes.
    """
    return (advantage < 0) & (losses > -dual_clip * advantage)
