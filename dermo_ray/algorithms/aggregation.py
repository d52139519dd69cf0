"""From per-token losses to one number, so that a batch may be cut up at will.

Each aggregation is a weight per token and a count of units (tokens or sequences) to divide by. Invariant: with the
units of the *whole* batch as `denominator`, the sum of `aggregate` over its micro-batches is `aggregate` of the
batch, for any cut between sequences. A sequence without a token in the mask is not a unit.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dermo_ray.algorithms.registry import lookup


class Aggregation(NamedTuple):
    """`weights` turns a [B, T] float mask and max_tokens into token weights; `units` counts what is averaged over."""

    weights: Callable[[Tensor, int | None], Tensor]
    units: Callable[[Tensor], Tensor]


def _by_token(mask: Tensor, max_tokens: int | None) -> Tensor:
    return mask


def _by_sequence_length(mask: Tensor, max_tokens: int | None) -> Tensor:
    return mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)


def _by_max_tokens(mask: Tensor, max_tokens: int | None) -> Tensor:
    # no default: the padded width would make the loss depend on how a batch was cut
    if max_tokens is None or max_tokens < 1:
        raise ValueError(f"seq_mean_token_sum_norm needs max_tokens of at least 1, not {max_tokens}")
    return mask / max_tokens


def _tokens(mask: Tensor) -> Tensor:
    return mask.sum()


def _sequences(mask: Tensor) -> Tensor:
    return mask.any(dim=-1).sum()


AGGREGATIONS: Mapping[str, Aggregation] = {
    # every token counts alike: DAPO (arXiv 2503.14476)
    "token_mean": Aggregation(_by_token, _tokens),
    # every sequence counts alike: GRPO (arXiv 2402.03300)
    "seq_mean_token_mean": Aggregation(_by_sequence_length, _sequences),
    # sums over tokens by a constant, no length bias: Dr. GRPO (arXiv 2503.20783)
    "seq_mean_token_sum_norm": Aggregation(_by_max_tokens, _sequences),
}


def loss_units(mask: Tensor, aggregation: str = "token_mean") -> Tensor:
    """How many units a [B, T] mask holds: its tokens for `token_mean`, else its sequences with a token in them.

    Counts add: the sum over micro-batches and ranks is the denominator for `aggregate`.
    """
    return lookup(AGGREGATIONS, aggregation, "aggregation").units(mask.bool())


def aggregate(
    losses: Tensor,
    mask: Tensor,
    aggregation: str = "token_mean",
    *,
    denominator: Tensor | float | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """The scalar loss of per-token `losses` [B, T] where `mask` [B, T] is not 0.

    `denominator` is the `loss_units` of the whole batch, over all micro-batches and ranks; None takes those of this
    mask. `max_tokens` is needed by `seq_mean_token_sum_norm` alone. An empty mask gives 0, with a gradient of 0.
    Where gradients are averaged over ranks afterwards, multiply by the number of ranks.

    Raises `ValueError` for an unknown aggregation, unequal shapes, or a missing `max_tokens`.
    """
    weights, units = lookup(AGGREGATIONS, aggregation, "aggregation")
    if losses.dim() != 2 or losses.shape != mask.shape:
        raise ValueError(f"losses and mask must both be [B, T], not {list(losses.shape)} and {list(mask.shape)}")
    keep = mask.bool()
    if denominator is None:
        denominator = units(keep)
    # masked_fill, not a product: what stands outside the mask may be NaN
    total = (losses.masked_fill(~keep, 0.0) * weights(keep.to(losses.dtype), max_tokens)).sum()
    return total / torch.as_tensor(denominator, dtype=losses.dtype, device=losses.device).clamp(min=1)
