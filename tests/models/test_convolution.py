"""Depthwise convolutions of small maps are matrix products on a CPU: the same numbers, by another way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fcdm.models.convolution import DepthwiseConv


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 11])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (4, 4), (2, 8), (1, 16), (4, 5), (8, 8)])
def test_values_and_gradients_are_those_of_a_convolution(kernel_size: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(kernel_size)
    conv = DepthwiseConv(6, kernel_size).double()
    x = torch.randn(3, height, width, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    grad = torch.randn(3, height, width, 6, dtype=torch.float64, generator=generator)
    out = conv(x)
    found = torch.autograd.grad(out, [x, conv.weight, conv.bias], grad)
    plain = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=kernel_size // 2, groups=6)
    expected = torch.autograd.grad(plain.permute(0, 2, 3, 1), [x, conv.weight, conv.bias], grad)
    torch.testing.assert_close(out, plain.permute(0, 2, 3, 1))
    assert out.is_contiguous()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
