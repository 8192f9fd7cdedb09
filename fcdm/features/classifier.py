"""A small network that reads a store's images, whose last features take Inception's place for data of any kind.

It is trained on images that no generator sees, from two seeds: where a ranking of models flips between the two networks
it is no result. Where labels are too few or too many, it learns by which quarter turn an image was rotated (Gidaris et
al. 2018, arXiv 1803.07728).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.classifier_files import ClassifierFiles
from fcdm.metrics.float32 import plain_float32

FEATURES = 64
WIDTHS = (32, 64, 96)
SIDE = 16
"""The first convolution steps over larger images so that about this is left, whatever their side."""
GROUPS = 8
BATCH = 256
"""Images in one forward pass."""


class StoreClassifier(nn.Module):
    """Five convolutions with GroupNorm and GELU, two of which halve the sides, and two linear layers.

    Images (n, channels, side, side) in [-1, 1]. No part of it mixes the images of a batch. 170,000 to 310,000
    parameters; 6 to 10 MMACs an image whatever its side.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        step = max(1, round(side / SIDE))
        narrow, middle, wide = WIDTHS
        self.first = nn.Conv2d(channels, narrow, 2 * step + 1, stride=step, padding=step)
        widths = ((narrow, middle, 2), (middle, middle, 1), (middle, wide, 2), (wide, wide, 1))
        self.rest = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=halves, padding=1) for before, after, halves in widths
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(GROUPS, after) for after in (narrow, *(width for _, width, _ in widths))
        )
        self.hidden = nn.Linear(wide * 4 * 4, FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.size: Tensor
        self.register_buffer("size", torch.ones(()))
        """Root mean square of what `hidden` gives for the images that were learned from."""

    def features(self, x: Tensor) -> Tensor:
        """(n, 64): what distances are taken over, of about size 1, for which the kernel distance is made."""
        return self._hidden(x) / self.size

    def measure_size(self, x: Tensor) -> None:
        """Of these images, once it is trained."""
        self.size = self._hidden(x).square().mean().sqrt()

    def _hidden(self, x: Tensor) -> Tensor:
        for convolution, norm in zip((self.first, *self.rest), self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        x = F.adaptive_avg_pool2d(x, 4)
        return F.gelu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.head(self._hidden(x))
        return logits


def scaled(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def open_classifier(files: ClassifierFiles, device: str | torch.device = "cpu") -> Extractor:
    """Images (n, channels, side, side) uint8 of the store's kind -> 64 features, with the second network as `second`.

    UserError for other shapes.
    """
    facts, weights = files.facts, load_file(files.weights)
    extractors: list[Extractor] = []
    for number in (1, 0):
        network = StoreClassifier(facts["channels"], facts["side"], facts["classes"])
        prefix = f"{number}."
        network.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
        second = extractors[-1] if extractors else None
        shape = (facts["channels"], facts["side"], facts["side"])
        identity = files.id + ("-second" if number else "")
        extractors.append(_extractor(network, identity, shape, torch.device(device), second))
    return extractors[-1]


def random_classifier(channels: int, side: int, device: torch.device) -> Extractor:
    """Of drawn weights, as fast as one that was trained."""
    shape = channels, side, side
    second = _extractor(StoreClassifier(channels, side, 10), "random-second", shape, device, None)
    return _extractor(StoreClassifier(channels, side, 10), "random", shape, device, second)


def _extractor(
    network: StoreClassifier, identity: str, shape: tuple[int, ...], device: torch.device, second: Extractor | None
) -> Extractor:
    network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"features are of uint8 images (see to_uint8), got {images.dtype}")
        if tuple(images.shape[1:]) != shape:
            raise UserError(
                f"{identity} reads images {shape} of its store alone, got {tuple(images.shape[1:])}: choose another "
                "evaluation.features for these"
            )
        with plain_float32(device):
            parts = [network.features(scaled(part.to(device))) for part in torch.split(images, BATCH)]
        return torch.cat(parts)

    return Extractor(identity, FEATURES, features, second=second)
