"""A small CNN that reads the bundled digits; its penultimate layer takes Inception's place in their FID."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fcdm.errors import UserError
from fcdm.features import DIGITS_CNN_WEIGHTS

FEATURES = 64


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions and two linear layers, GELU between: 45,162 parameters, no normalisation.

    Input (n, 1, 8, 8) in [-1, 1], the scale of `to_8x8`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 2 * 2, FEATURES)
        self.head = nn.Linear(FEATURES, 10)

    def features(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) -> (n, 64), what the digits' FID is taken over."""
        h = F.gelu(self.conv1(x))
        h = F.max_pool2d(F.gelu(self.conv2(h)), 2)
        h = F.max_pool2d(F.gelu(self.conv3(h)), 2)
        return F.gelu(self.hidden(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) -> logits (n, 10) of the digits 0 to 9."""
        logits: Tensor = self.head(self.features(x))
        return logits


def to_8x8(images: Tensor) -> Tensor:
    """Images (n, 1, s, s) uint8, s a multiple of 8 -> (n, 1, 8, 8) float64 in [-1, 1].

    Larger images are averaged over s/8 x s/8 squares: whatever is computed from here on (features, FID) is
    blind to anything finer than 8x8. Real and generated images both come as uint8, so both carry the same
    rounding. UserError for other shapes.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"features are of uint8 images (see to_uint8), got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3] or images.shape[2] % 8:
        raise UserError(
            "these features are for images of one channel and 8, 16, 24... pixels a side, "
            f"got {tuple(images.shape)}: choose another evaluation.features for this data"
        )
    return F.avg_pool2d(images.double(), images.shape[2] // 8) / 127.5 - 1


def load_digits_cnn() -> DigitsCNN:
    """The shipped network, float32 on the CPU, in eval mode and frozen."""
    network = DigitsCNN()
    network.load_state_dict(load_file(DIGITS_CNN_WEIGHTS))
    return network.eval().requires_grad_(False)
