"""Advantages of sampled completions from their rewards, without a critic.

Invariants: an advantage is finite for every batch of finite rewards; a completion that has nothing to be compared
with (alone in its group, or every reward in it equal) has the advantage 0 and so no gradient; the order of the
batch does not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dermo_ray.algorithms.registry import lookup


@dataclass(frozen=True)
class Groups:
    """Which completions belong together: `index` [B] holds positions 0..G-1, `size` [G] counts the members."""

    index: Tensor
    size: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean of [B] `values` over each completion's group, [B]."""
        return (torch.zeros_like(self.size).index_add(0, self.index, values) / self.size)[self.index]

    def constant(self, values: Tensor) -> Tensor:
        """Whether all [B] `values` of a completion's group are equal, [B]; true for a group of one."""
        highest = torch.zeros_like(self.size).scatter_reduce(0, self.index, values, "amax", include_self=False)
        lowest = torch.zeros_like(self.size).scatter_reduce(0, self.index, values, "amin", include_self=False)
        return (highest == lowest)[self.index]


def grpo(rewards: Tensor, groups: Groups, eps: float) -> Tensor:
    """(r - mean) / (std + eps) within the group, std with n - 1: GRPO (arXiv 2402.03300, section 4.1.2)."""
    centered = rewards - groups.mean(rewards)
    size = groups.size[groups.index]
    variance = groups.mean(centered**2) * size / (size - 1).clamp(min=1)
    return centered / (variance.sqrt() + eps)


def dr_grpo(rewards: Tensor, groups: Groups, eps: float) -> Tensor:
    """The mean of the group subtracted, no division by its spread: Dr. GRPO (arXiv 2503.20783)."""
    return rewards - groups.mean(rewards)


def rloo(rewards: Tensor, groups: Groups, eps: float) -> Tensor:
    """The mean of the *other* members subtracted: RLOO (arXiv 2402.14740).

    Written as n / (n - 1) * (r - mean), which is the same. A group of one has no others: advantage 0.
    """
    size = groups.size[groups.index]
    return (rewards - groups.mean(rewards)) * size / (size - 1).clamp(min=1)


def reinforce_pp(rewards: Tensor, groups: Groups, eps: float) -> Tensor:
    """(r - mean) / (std + eps) over the whole batch, groups ignored: REINFORCE++ (arXiv 2501.03262).

    The paper's plain variant, not the one with a group baseline. Statistics run over completions (one reward each),
    std with n - 1; a penalty for KL is the caller's to subtract from the rewards beforehand.
    """
    if rewards.numel() < 2:
        return torch.zeros_like(rewards)
    centered = rewards - rewards.mean()
    return centered / (rewards.std(unbiased=True) + eps)


Estimator = Callable[[Tensor, Groups, float], Tensor]
ESTIMATORS: Mapping[str, Estimator] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
}
_OVER_THE_BATCH = {"reinforce_pp"}


def advantages(
    rewards: Tensor | Sequence[float],
    group_ids: Tensor | Sequence[int],
    estimator: str = "grpo",
    eps: float = 1e-6,
) -> Tensor:
    """Advantages [B] of completions with `rewards` [B], compared within `group_ids` [B] (integers, in any order).

    `estimator` is one of `ESTIMATORS`. The result has the rewards' device and is float32, or float64 where the
    rewards are; it carries no gradient. A group of one, or of equal rewards, gets exactly 0 (for `reinforce_pp`:
    a batch of one, or of equal rewards).

    Raises `ValueError` for an unknown estimator, wrong shapes, ids that are not integers, and rewards that are
    NaN or infinite.
    """
    estimate = lookup(ESTIMATORS, estimator, "advantage estimator")
    given = torch.as_tensor(rewards).detach()
    ids = torch.as_tensor(group_ids, device=given.device)
    if given.dim() != 1 or ids.shape != given.shape:
        raise ValueError(f"rewards and group_ids must both be [B], not {list(given.shape)} and {list(ids.shape)}")
    if given.numel() == 0:
        return torch.zeros_like(given, dtype=_result_dtype(given))
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"group_ids must be integers, not {ids.dtype}")
    finite = torch.isfinite(given)
    if not finite.all():
        raise ValueError(f"reward is not finite: index {int((~finite).nonzero()[0])}")
    # float64 inside: a spread far below the rewards' size must not drown in rounding
    exact = given.to(torch.float64)
    if estimator in _OVER_THE_BATCH:
        ids = torch.zeros_like(ids)
    _, index, size = torch.unique(ids, return_inverse=True, return_counts=True)
    groups = Groups(index, size.to(exact.dtype))
    result = estimate(exact, groups, eps).masked_fill(groups.constant(exact), 0.0)
    return result.to(_result_dtype(given))


def _result_dtype(rewards: Tensor) -> torch.dtype:
    return torch.float64 if rewards.dtype == torch.float64 else torch.float32
