"""A convolution over whole patches is a product, with the same values and gradients."""

import copy

import pytest
import torch
from torch import nn

from dermo_ray.models.patches import PatchProjection, multiply_patches


@pytest.mark.parametrize("size", [(2, 4, 4), (2, 8, 12)], ids=["a_patch", "larger"])
def test_a_product_is_what_the_convolution_was(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4)))
    changed = copy.deepcopy(plain)
    multiply_patches(changed)
    assert isinstance(changed[0], PatchProjection)
    patches = torch.randn(10, 3, *size)
    expected, found = plain(patches), changed(patches)
    assert torch.allclose(found, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for before, after in zip(plain.parameters(), changed.parameters(), strict=True):
        assert torch.allclose(after.grad, before.grad, atol=1e-4)
    assert changed.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("options", [{"padding": 1}, {"groups": 3}])
def test_other_convolutions_stay(options: dict[str, int]) -> None:
    model = nn.Sequential(nn.Conv3d(3, 6, kernel_size=2, **options))
    multiply_patches(model)
    assert type(model[0]) is nn.Conv3d
