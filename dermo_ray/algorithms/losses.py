"""The clipped policy-gradient loss, per token and as one number.

Invariants: what stands outside the mask (padding, even NaN) changes neither loss nor gradient; gradients reach
`logprobs` alone; an empty mask gives a loss of 0 that can be differentiated; arithmetic is float32 or better.
Every metric is a mean over the masked tokens, so an average weighted by `tokens` joins micro-batches exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dermo_ray.algorithms.aggregation import aggregate
from dermo_ray.algorithms.corrections import correction_weights
from dermo_ray.algorithms.kl import kl_divergence
from dermo_ray.algorithms.registry import lookup
from dermo_ray.algorithms.surrogates import SURROGATES, exceeds_dual_clip, probability_ratio


@dataclass(frozen=True)
class PolicyLoss:
    """A scalar `loss` to call backward on, and `metrics` by name."""

    loss: Tensor
    metrics: dict[str, float]


def token_losses(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: str = "token",
    surrogate: str = "ppo",
    dual_clip: float | None = None,
    rollout_logprobs: Tensor | None = None,
    correction: str | None = None,
    correction_low: float | None = None,
    correction_high: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of each token, [B, T], clipped and corrected, 0 outside the mask; and metrics.

    loss = surrogate(r, A) * w. The `surrogate` is one of `SURROGATES`: `ppo`, which is
    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and where A is negative at most -dual_clip * A; or `cispo`.
    r is one of `RATIOS`; with `sequence` every token of a sequence carries the same r, through which the gradient
    reaches all of them. w is 1, or what `correction` (see `corrections`) makes of `rollout_logprobs`.

    Shapes: logprobs (learner now), old_logprobs (learner when the batch began), mask and rollout_logprobs (as the
    engine reported them) [B, T]; advantages [B] or [B, T].

    Raises `ValueError` for an unknown name, wrong shapes, a correction without its inputs, or a dual clip that is not
    above 1 or not with `ppo`.
    """
    if dual_clip is not None and (surrogate != "ppo" or dual_clip <= 1):
        raise ValueError(f"dual_clip must be above 1 and belongs to ppo, not {dual_clip} with {surrogate}")
    keep = _checked_mask(logprobs, old_logprobs, advantages, mask, rollout_logprobs)
    dtype = torch.promote_types(logprobs.dtype, torch.float32)

    def masked(values: Tensor) -> Tensor:
        return values.to(dtype).masked_fill(~keep, 0.0)  # before exp, so that padding can't make NaN gradients

    new, old = masked(logprobs), masked(old_logprobs.detach())
    policy_ratio = probability_ratio(new - old, keep, ratio)
    advantage = masked((advantages if advantages.dim() == 2 else advantages[:, None]).detach().expand_as(keep))
    losses, below, above = lookup(SURROGATES, surrogate, "surrogate")(new, policy_ratio, advantage, clip_low, clip_high)
    per_token = {
        "clip_fraction": below | above,
        "clip_fraction_low": below,
        "clip_fraction_high": above,
        "ratio_mean": policy_ratio.detach(),
        "approx_kl": kl_divergence(old, new.detach(), "k3"),
    }
    if dual_clip is not None:
        capped = exceeds_dual_clip(losses, advantage, dual_clip)
        losses = torch.where(capped, -dual_clip * advantage, losses)
        per_token["dual_clip_fraction"] = capped

    with torch.no_grad():
        if rollout_logprobs is not None:
            log_weights = old - masked(rollout_logprobs)
            per_token["rollout_logprob_diff"] = log_weights.abs()
            if correction is not None:
                weights = correction_weights(log_weights, keep, correction, correction_low, correction_high)
                per_token["correction_mean"] = weights
                per_token["corrected_fraction"] = weights != log_weights.exp()
                per_token["masked_fraction"] = weights == 0
        elif correction is not None:
            raise ValueError(f"correction {correction} needs rollout_logprobs, as the engine reported them")
    if correction is not None:
        losses = losses * weights
    return losses, token_means(per_token, keep)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: str = "token",
    surrogate: str = "ppo",
    dual_clip: float | None = None,
    aggregation: str = "token_mean",
    max_tokens: int | None = None,
    rollout_logprobs: Tensor | None = None,
    correction: str | None = None,
    correction_low: float | None = None,
    correction_high: float | None = None,
) -> PolicyLoss:
    """The loss of a whole batch: `aggregate` of `token_losses`, which say what the arguments mean and raise."""
    losses, metrics = token_losses(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
        ratio=ratio,
        surrogate=surrogate,
        dual_clip=dual_clip,
        rollout_logprobs=rollout_logprobs,
        correction=correction,
        correction_low=correction_low,
        correction_high=correction_high,
    )
    return PolicyLoss(aggregate(losses, mask, aggregation, max_tokens=max_tokens), metrics)


def _checked_mask(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, rollout_logprobs: Tensor | None
) -> Tensor:
    shape = logprobs.shape
    if len(shape) != 2:
        raise ValueError(f"logprobs must be [B, T], not {list(shape)}")
    same_shape = {"old_logprobs": old_logprobs, "mask": mask, "rollout_logprobs": rollout_logprobs}
    for name, value in same_shape.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} as logprobs are, not {list(value.shape)}")
    if advantages.shape not in (shape, shape[:1]):
        raise ValueError(f"advantages must be {list(shape[:1])} or {list(shape)}, not {list(advantages.shape)}")
    return mask.bool()


def token_means(per_token: Mapping[str, Tensor], mask: Tensor) -> dict[str, float]:
    """The mean of each [B, T] value over the mask, and `tokens`, the number of tokens it is over."""
    tokens = mask.sum()
    sums = torch.stack([value.float().masked_fill(~mask, 0.0).sum() for value in per_token.values()])
    # one transfer from the device, however many metrics there are
    *means, count = torch.cat([sums / tokens.clamp(min=1), tokens.float()[None]]).tolist()
    return {**dict(zip(per_token, means, strict=True)), "tokens": count}
