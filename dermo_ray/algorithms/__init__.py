"""Reinforcement-learning arithmetic: advantages, policy losses, divergence, entropy and off-policy corrections.

Every algorithm is a pure function in a registry next to its kin; a name chooses it and an unknown name is a
`ValueError` that lists the known ones. `policy_loss` is for a batch that fits into one call. A learner that
accumulates micro-batches over several ranks composes `objective` and `aggregate` itself and passes the `loss_units` of
the whole batch as the denominator, so that the gradient does not depend on how it was cut.
"""

from dermo_ray.algorithms.aggregation import AGGREGATIONS, aggregate, loss_units
from dermo_ray.algorithms.corrections import CORRECTIONS
from dermo_ray.algorithms.entropy import sampled_entropy
from dermo_ray.algorithms.estimators import ESTIMATORS, advantages
from dermo_ray.algorithms.kl import KL_ESTIMATORS, kl_divergence
from dermo_ray.algorithms.losses import PolicyLoss, policy_loss, token_losses
from dermo_ray.algorithms.objective import objective
from dermo_ray.algorithms.shaping import overlong_penalty
from dermo_ray.algorithms.surrogates import RATIOS, SURROGATES

__all__ = [
    "AGGREGATIONS",
    "CORRECTIONS",
    "ESTIMATORS",
    "KL_ESTIMATORS",
    "RATIOS",
    "SURROGATES",
    "PolicyLoss",
    "advantages",
    "aggregate",
    "kl_divergence",
    "loss_units",
    "objective",
    "overlong_penalty",
    "policy_loss",
    "sampled_entropy",
    "token_losses",
]
