"""LoRA on vLLM's CPU worker as dense products, one for each adapter in the batch.

vLLM 0.32's own CPU path copies the adapter's matrices once for every token, which costs many times the model itself
where hundreds of sequences share an adapter, and gives a token without an adapter the last slot's. A batch of rollouts
has one adapter, or two while an update is under way. The engine loads this module in its worker process.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_NO_ADAPTER = -1
"""The slot of a token whose request has no adapter."""


class DenseLora:
    """vLLM's hook for code in its workers; importing it is all that is needed."""


def add_lora_linear(
    self: PunicaWrapperCPU,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **kwargs: Any,
) -> None:
    """Add scale * x A^T B^T of each token's adapter to `y`, slice by slice of the output.

    Shapes: y [..., sum(output_slices)], x [..., inputs], A [slots, 1, rank, inputs], B [slots, 1, slice, rank].
    """
    outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    slots = self.token_lora_indices
    for slot in torch.unique(slots).tolist():
        if slot == _NO_ADAPTER:
            continue
        rows = slots == slot
        everyone = bool(rows.all())
        shown = inputs if everyone else inputs[rows]
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            change = (shown @ a[slot, 0].T) @ b[slot, 0].T * scale
            columns = outputs[:, start : start + size]
            if everyone:
                columns += change
            else:
                columns[rows] += change
            start += size


PunicaWrapperCPU.add_lora_linear = add_lora_linear  # type: ignore[method-assign]
