"""What enters the models: timestep features, label tables, fixed position embeddings, the first layer's start."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMESTEP_FEATURES = 256
"""Width of the sinusoid in front of the timestep MLP, in both public codes."""


def timestep_features(t: Tensor, dim: int = TIMESTEP_FEATURES, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a timestep, cosines first (the form of arXiv 2006.11239, order of the public codes).

    `t` (B,), integer or fractional; returns (B, dim) float32. The arithmetic is float32 whatever the weights are:
    neighbouring timesteps near 1000 are one and the same number in bfloat16.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(max_period) / half))
    angles = t.to(torch.float32)[:, None] * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features (B, 256) to a conditioning vector (B, width): Linear, SiLU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(TIMESTEP_FEATURES, width)
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(features.to(self.hidden.weight.dtype))
        embedded: Tensor = self.out(F.silu(hidden))
        return embedded


class Conditioner(nn.Module):
    """One conditioning vector: timestep embedding + row of a label table whose last row is the null class.

    `features` (B, 256) from `timestep_features`, `labels` (B,) int64 in [0, classes]; returns (B, width).
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.timestep = TimestepEmbedder(width)
        self.label = nn.Embedding(classes + 1, width)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        conditioning: Tensor = self.timestep(features) + self.label(labels)
        return conditioning

    def reset_parameters(self) -> None:
        """Normal(0.02) tables and MLP weights, zero biases (both public codes)."""
        for weight in (self.label.weight, self.timestep.hidden.weight, self.timestep.out.weight):
            nn.init.normal_(weight, std=0.02)
        for bias in (self.timestep.hidden.bias, self.timestep.out.bias):
            nn.init.zeros_(bias)


def label_columns(labels: Tensor, count: int) -> list[Tensor]:
    """The labels of each of `count` embedders: `labels` (B,) serves all, column k of (B, count) serves embedder k.

    Columns that differ are how independent label drop is done, outside the model. Raises ValueError on other shapes.
    """
    if labels.dim() == 1:
        return [labels] * count
    if labels.dim() == 2 and labels.shape[1] == count:
        return list(labels.unbind(1))
    raise ValueError(f"labels of shape {tuple(labels.shape)}: expected (batch,) or (batch, {count})")


def position_embedding(width: int, side: int) -> Tensor:
    """Fixed 2-D sin-cos embedding of a side x side grid of tokens, (1, side*side, width) float32 (DiT's).

    First half of the width encodes the column, second half the row; in each, sines first. `width` % 4 == 0.
    """
    quarter = width // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)  # (side, width / 2)
    columns = axis[None, :, :].expand(side, side, -1)
    rows = axis[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, side * side, width).to(torch.float32)


def xavier_flat_(weight: Tensor) -> None:
    """Xavier uniform as if the convolution's weight (C_out, C_in, k, k) were a matrix (C_out, C_in * k * k).

    Both public codes start their first layer so. (torch's own rule counts C_out * k * k as the fan-out.)
    """
    bound = math.sqrt(6.0 / (weight.shape[0] + weight[0].numel()))
    nn.init.uniform_(weight, -bound, bound)
