"""The entropy of the policy from sampled tokens alone, so that no logits need be kept for it.

With a ~ pi, -log pi(a) is an unbiased estimate of the entropy H, but its own gradient is not one of H's: it is 0 in
expectation. Since grad H = -E[log pi(a) grad log pi(a)] (the score-function identity; Williams, "Simple statistical
gradient-following algorithms", 1992), value and gradient are taken from different terms here.
"""

from torch import Tensor


def sampled_entropy(logprobs: Tensor) -> Tensor:
    """An estimate of the entropy at each token, in nats, from log-probabilities [B, T] of sampled tokens.

    The value is -log pi and the gradient -log pi * grad log pi, each unbiased for tokens of the policy itself.
    """
    value = -logprobs.detach()
    return value * (1 + logprobs - logprobs.detach())
