"""The whole objective of an update under its settings, token by token.

Invariant: the loss of a token depends on its own sequence alone, so a batch may be ordered, padded and cut at will;
`aggregate` with the units of the whole batch makes one number of it.
"""

import torch
from torch import Tensor

from dermo_ray.algorithms.entropy import sampled_entropy
from dermo_ray.algorithms.kl import kl_divergence
from dermo_ray.algorithms.losses import token_losses, token_means
from dermo_ray.config.algorithm import AlgorithmSettings


def objective(
    logprobs: Tensor,
    rollout_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    settings: AlgorithmSettings,
    ref_logprobs: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of each token, [B, T], 0 outside the mask, and metrics that are means over the masked tokens.

    Shapes: logprobs (learner now, with gradient), rollout_logprobs (as the engine reported them), mask and ref_logprobs
    (policy without its adapter, needed where `settings.kl_in_loss`) [B, T]; advantages [B] or [B, T].

    A batch makes one update, so the learner has not moved since the batch began: with `old_policy: learner` the ratio
    is 1 in value. Corrections weigh the surrogate alone, not divergence and entropy.
    """
    losses, metrics = token_losses(
        logprobs,
        rollout_logprobs if settings.old_policy == "engine" else logprobs.detach(),
        advantages,
        mask,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        ratio=settings.ratio,
        surrogate=settings.surrogate,
        dual_clip=settings.dual_clip,
        rollout_logprobs=rollout_logprobs,
        correction=settings.correction,
        correction_low=settings.correction_low,
        correction_high=settings.correction_high,
    )
    keep = mask.bool()
    clean = logprobs.to(losses.dtype).masked_fill(
        ~keep, 0.0
    )  # what stands outside the mask may be NaN, and so would be its gradient
    extra = {"rollout_logprob_diff": (logprobs.detach() - rollout_logprobs).abs()}
    if settings.kl_in_loss:
        if ref_logprobs is None:
            raise ValueError("a divergence in the loss needs ref_logprobs")
        divergence = kl_divergence(clean, ref_logprobs.masked_fill(~keep, 0.0), settings.kl_kind)
        losses = losses + settings.kl_coefficient * divergence
        extra["kl"] = divergence.detach()
    if settings.entropy_coefficient > 0:
        losses = losses - settings.entropy_coefficient * sampled_entropy(clean)
    with torch.no_grad():
        metrics |= token_means(extra, keep)
    return losses, metrics
