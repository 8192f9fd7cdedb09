"""The pixels themselves as features, averaged down: they favour no network, and see nothing finer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fcdm.errors import UserError


def pixel_values(images: Tensor, channels: int) -> Tensor:
    """Images (n, c, s, s) uint8 -> (n, 64) float32 of grey ones (`channels` 1), averaged to 8x8, else (n, 48): 4x4x3.

    Scaled to [-1, 1]. Grey images are repeated where colour is asked for. UserError for other shapes.
    """
    side = 8 if channels == 1 else 4
    if images.dtype != torch.uint8:
        raise TypeError(f"features are of uint8 images (see to_uint8), got {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, channels) or not side <= images.shape[2] == images.shape[3]:
        raise UserError(
            f"evaluation.features=pixels averages square images of {channels} channels to {side}x{side}, got "
            f"{tuple(images.shape)}: choose another evaluation.features for this data"
        )
    return averaged(images.double(), side).div(127.5).sub(1).expand(-1, channels, -1, -1).flatten(1).float()


def averaged(x: Tensor, side: int) -> Tensor:
    """(n, c, s, s) -> (n, c, side, side): means over areas of s/side pixels a side, which may cut pixels in parts."""
    if x.shape[2] % side == 0:
        return F.avg_pool2d(x, x.shape[2] // side)
    weights = _overlaps(x.shape[2], side).to(x)
    return weights @ x @ weights.T


def _overlaps(size: int, side: int) -> Tensor:
    """(side, size) the share of each pixel in each of `side` equal areas; rows sum to 1."""
    edges = torch.arange(side + 1, dtype=torch.float64) * size / side
    pixels = torch.arange(size, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixels)
    high = torch.minimum(edges[1:, None], pixels + 1)
    return (high - low).clamp_min(0) * side / size
