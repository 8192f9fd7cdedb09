"""Feature extractors: 8-bit images in, the numbers that Fréchet distances are taken over out.

Importing this is torch-free, so a plan can name its extractor (`extractor_id`) at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.errors import UserError

if TYPE_CHECKING:
    import torch

DIGITS_CNN_WEIGHTS = Path(__file__).with_name("digits_cnn.safetensors")
EXTRACTORS = ("digits-cnn", "pixels")


@dataclass(frozen=True)
class Extractor:
    """Call it with images (n, c, h, w) uint8: features (n, dim) float32 on the device it was opened on."""

    id: str
    """Names the weights too: features of two ids are never compared."""
    dim: int
    extract: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.extract(images)


def digits_cnn_id() -> str:
    """`digits-cnn@<first 8 hex digits of the shipped weight file's sha256>`."""
    return "digits-cnn@" + hashlib.sha256(DIGITS_CNN_WEIGHTS.read_bytes()).hexdigest()[:8]


def extractor_id(name: str) -> str:
    """The id of the extractor `name`, without loading it; UserError for an unknown name."""
    if name not in EXTRACTORS:
        raise UserError(f"no feature extractor {name!r}: choose one of {', '.join(EXTRACTORS)}")
    return digits_cnn_id() if name == "digits-cnn" else "pixels-8x8"


def open_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor `name`, ready on `device`; UserError for an unknown name.

    - `digits-cnn`: 64 penultimate features of a small CNN that reads the digits (`fcdm.features.digits_cnn`);
    - `pixels`: the 64 pixels themselves, area-averaged to 8x8 and scaled to [-1, 1]. A CNN's features
      might favour the samples of a ConvNet; these favour nobody.

    Both take images of one channel and see nothing finer than 8x8. Both compute in float64 (autocast and TF32
    leave it alone), so batch size and device move a feature by no more than its float32 rounding.
    """
    identity = extractor_id(name)
    import torch

    from fcdm.features.digits_cnn import FEATURES, load_digits_cnn, to_8x8

    if name == "pixels":

        def pixels(images: torch.Tensor) -> torch.Tensor:
            return to_8x8(images.to(device)).flatten(1).float()

        return Extractor(identity, 64, pixels)

    network = load_digits_cnn().to(device, torch.float64)

    @torch.no_grad()
    def penultimate(images: torch.Tensor) -> torch.Tensor:
        return network.features(to_8x8(images.to(device))).float()

    return Extractor(identity, FEATURES, penultimate)
