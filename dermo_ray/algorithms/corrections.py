"""Corrections for the gap between the engine that sampled and the learner that trains.

Both hold the same weights, yet their kernels differ, so a token's probability differs too. With
w = exp(old_logprobs - rollout_logprobs), learner over engine at the same policy version, each correction gives the
factor for a token's loss. Factors carry no gradient and are finite wherever w is bounded by the correction.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dermo_ray.algorithms.registry import lookup


def tis(log_weights: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Clamp w to [low, high]: truncated importance sampling.

    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).
    """
    return log_weights.exp().clamp(low, high)


def icepop(log_weights: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Keep w where it lies inside [low, high], else 0: IcePop (Ring-1T report, arXiv 2510.18855)."""
    weights = log_weights.exp()
    return torch.where((weights >= low) & (weights <= high), weights, 0.0)


def seq_mask_tis(log_weights: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Keep w where the geometric mean of w over the sequence lies inside [low, high], else 0.

    Sequence masking by the geometric mean: Liu, Li et al., "When Speed Kills Stability: Demystifying RL Collapse from
    the Training-Inference Mismatch" (2025).
    """
    return torch.where(_mean_inside(log_weights, mask, low, high), log_weights.exp(), 0.0)


def seq_reject(log_weights: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """1 where the geometric mean of w over the sequence lies inside [low, high], else 0: rejection without weights.

    The same criterion and source as `seq_mask_tis`. A rejected sequence still counts in the denominator of the loss, as
    any weight of 0 does.
    """
    return torch.where(_mean_inside(log_weights, mask, low, high), torch.ones_like(log_weights), 0.0)


def _mean_inside(log_weights: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """Whether the geometric mean of w over each sequence lies inside [low, high], [B, 1]."""
    lengths = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    geometric_mean = (log_weights.sum(dim=-1, keepdim=True) / lengths).exp()
    return (geometric_mean >= low) & (geometric_mean <= high)


Correction = Callable[[Tensor, Tensor, float, float], Tensor]
CORRECTIONS: Mapping[str, Correction] = {
    "tis": tis,
    "icepop": icepop,
    "seq_mask_tis": seq_mask_tis,
    "seq_reject": seq_reject,
}


def correction_weights(
    log_weights: Tensor, mask: Tensor, correction: str, low: float | None, high: float | None
) -> Tensor:
    """The factor for each token, [B, T], from log w [B, T] (0 outside the mask) and a boolean mask [B, T].

    Bounds are inclusive; `low` None is 0. Raises `ValueError` for an unknown correction, a missing `high`, or
    `low` above `high`.
    """
    weigh = lookup(CORRECTIONS, correction, "correction")
    floor = 0.0 if low is None else low
    if high is None or floor > high:
        raise ValueError(f"correction {correction} needs correction_low <= correction_high, not {low} and {high}")
    return weigh(log_weights.detach(), mask, floor, high)
