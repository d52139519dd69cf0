"""The fingerprint of weights: the same however they are laid out, another one where a bit differs."""

import pytest
import torch

from dermo_ray.models.fingerprint import fingerprint

DTYPES = [torch.float32, torch.bfloat16]


def weights(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in [(6, 8), (2, 8), (2, 8), (8,)]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_does_not_depend_on_order_fusion_cuts_or_padding(dtype: torch.dtype) -> None:
    query, key, value, norm = weights(dtype)
    expected = fingerprint([query, key, value, norm])
    assert 0 < expected < 2**64
    fused = torch.cat([query, key, value, torch.zeros(3, 8, dtype=dtype)])
    assert fingerprint([norm, fused]) == expected
    parts = [fingerprint([half]) for half in (*fused.chunk(2), norm)]
    assert sum(parts) % 2**64 == expected
    assert fingerprint([query.T, key, value, norm]) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_change_of_one_value_shows(dtype: torch.dtype) -> None:
    query, *others = weights(dtype)
    changed = query.clone()
    integers = changed.view(torch.int32 if dtype == torch.float32 else torch.int16)
    integers[3, 3] += 1
    assert fingerprint([changed, *others]) != fingerprint([query, *others])


def test_it_is_the_same_on_every_machine() -> None:
    assert fingerprint([torch.tensor([1.0, -2.5, 0.0])]) == fingerprint([torch.tensor([-2.5]), torch.tensor([1.0])])
    assert fingerprint([torch.zeros(5)]) == 0


def test_a_type_that_weights_do_not_have_is_refused() -> None:
    with pytest.raises(KeyError):
        fingerprint([torch.ones(2, dtype=torch.int64)])
