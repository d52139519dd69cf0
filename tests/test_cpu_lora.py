"""The dense LoRA product of vLLM's CPU worker against one token at a time."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

pytest.importorskip("vllm")

from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from actors.cpu_lora import add_lora_linear, add_lora_logits, shares

INPUTS, RANK, SLICES, SCALE = 6, 3, (4, 5), 0.5
NO_ADAPTER = -1


def token_by_token(y: Tensor, x: Tensor, a: tuple[Tensor, ...], b: tuple[Tensor, ...], slots: list[int]) -> Tensor:
    expected = y.clone()
    for token, slot in enumerate(slots):
        if slot == NO_ADAPTER:
            continue
        start = 0
        for a_slice, b_slice, size in zip(a, b, SLICES, strict=True):
            for output in range(size):
                inner = [float(a_slice[slot, 0, r] @ x[token]) for r in range(RANK)]
                change = sum(float(b_slice[slot, 0, output, r]) * inner[r] for r in range(RANK))
                expected[token, start + output] += SCALE * change
            start += size
    return expected


@pytest.mark.parametrize(
    "slots",
    [[0, 1, -1, 1, 0, -1, 0], [1] * 7, [-1] * 7, [0, 0, 0, 0, 0, 0, -1]],
    ids=["two adapters and none", "one adapter for all", "no adapter", "one token without"],
)
@pytest.mark.parametrize("batched", [False, True])
def test_every_token_gets_the_change_of_its_own_adapter(slots: list[int], batched: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, INPUTS, generator=generator), torch.randn(7, sum(SLICES), generator=generator)
    a = tuple(torch.randn(2, 1, RANK, INPUTS, generator=generator) for _ in SLICES)
    b = tuple(torch.randn(2, 1, size, RANK, generator=generator) for size in SLICES)
    expected = token_by_token(y, x, a, b, slots)
    wrapper = SimpleNamespace(token_shares=shares(torch.tensor(slots)))
    if batched:
        x, y, expected = x[None], y[None], expected[None]
    add_lora_linear(wrapper, y, x, a, b, SCALE, SLICES)  # type: ignore[arg-type]
    assert torch.allclose(y, expected, atol=1e-5)


def test_logits_get_the_change_of_their_own_adapter() -> None:
    generator = torch.Generator().manual_seed(0)
    slots, outputs = [0, -1, 1, 1, 0, 0, -1], sum(SLICES)
    x, y = torch.randn(7, INPUTS, generator=generator), torch.randn(7, outputs, generator=generator)
    a = torch.randn(2, 1, RANK, INPUTS, generator=generator)
    b = torch.randn(2, 1, outputs, RANK, generator=generator)
    expected = token_by_token(y, x, (a,) * 2, (b[:, :, : SLICES[0]], b[:, :, SLICES[0] :]), slots)
    wrapper = SimpleNamespace(sampler_shares=shares(torch.tensor(slots)))
    add_lora_logits(wrapper, y, x, a, b, SCALE)  # type: ignore[arg-type]
    assert torch.allclose(y, expected, atol=1e-5)


def test_vllm_uses_it() -> None:
    assert PunicaWrapperCPU.add_lora_linear is add_lora_linear
    assert PunicaWrapperCPU.add_lora_logits is add_lora_logits
