"""Per-token estimates of KL(policy || reference) from tokens that the policy sampled.

Source: J. Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html.
With d = log ref - log policy at the sampled token: k1 is unbiased and may be negative, k2 is biased with low
variance, k3 is unbiased and never negative. Gradients flow into whichever argument asks for them.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from dermo_ray.algorithms.registry import lookup

KL_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: d.expm1() - d,
}


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k3") -> Tensor:
    """The estimate at each token, [B, T], from log-probabilities [B, T] of policy and reference.

    `kind` is `k1` (-d), `k2` (d^2 / 2) or `k3` (e^d - 1 - d) with d = ref_logprobs - logprobs.
    Raises `ValueError` for an unknown kind or unequal shapes.
    """
    estimate = lookup(KL_ESTIMATORS, kind, "KL estimator")
    if logprobs.shape != ref_logprobs.shape:
        raise ValueError(f"logprobs {list(logprobs.shape)} and ref_logprobs {list(ref_logprobs.shape)} differ in shape")
    return estimate(ref_logprobs - logprobs)
