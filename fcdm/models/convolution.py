"""Convolutions on (B, H, W, C) activations, in the layout and by the algorithm that is fastest where they run."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL_MAP = 16  # positions


class ChannelsLastConv(nn.Conv2d):
    """A same-padded stride-1 convolution from (B, H, W, C_in) to (B, H, W, C_out)."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, *, groups: int = 1, bias: bool = True) -> None:
        super().__init__(c_in, c_out, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias)
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x.permute(0, 3, 1, 2), self.weight, None)
        # The layout of a one-channel tensor is ambiguous, so the convolution may answer in the other one.
        out = out.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        # On its own, because oneDNN's bias gradient of a depthwise convolution costs more than its input gradient.
        return out if self.bias is None else out.add_(self.bias.to(out.dtype))


class DepthwiseConv(ChannelsLastConv):
    """A depthwise convolution of odd kernel size, (B, H, W, C) to (B, H, W, C).

    On a CPU maps of at most SMALL_MAP positions go through one matrix product per channel instead: oneDNN's
    backward pass of a 7x7 kernel on a 2x2 map takes 8 times as long as that, on a 4x4 map 4 times (torch 2.13).
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__(width, width, kernel_size, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        positions = height * width
        if x.device.type != "cpu" or positions > SMALL_MAP:
            return super().forward(x)
        taps = F.pad(self.weight.reshape(channels, -1), (0, 1))  # a zero tap for pairs that are too far apart
        # A compiler does not look into a cache, and needs none.
        taps_of = _tap_of_pair if torch.compiler.is_compiling() else _tap_of_pair_once
        index = taps_of(height, width, self.kernel_size[0])
        matrix = taps.index_select(1, index).view(channels, positions, positions)
        out = torch.bmm(matrix, x.reshape(batch, positions, channels).permute(2, 1, 0))  # (C, positions, B)
        out = out.permute(2, 1, 0).contiguous().view(x.shape)
        assert self.bias is not None
        return out.add_(self.bias.to(out.dtype))


def _tap_of_pair(height: int, width: int, kernel_size: int) -> Tensor:
    """Which tap of the kernel joins output i to input j, (positions * positions,) int64; kernel_size^2 for none."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    down = row[None, :] - row[:, None] + kernel_size // 2
    right = column[None, :] - column[:, None] + kernel_size // 2
    inside = (down >= 0) & (down < kernel_size) & (right >= 0) & (right < kernel_size)
    return torch.where(inside, down * kernel_size + right, kernel_size**2).flatten()


_tap_of_pair_once = cache(_tap_of_pair)
