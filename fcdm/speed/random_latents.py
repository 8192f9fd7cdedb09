"""Latents that mean nothing, read and used as those of a store are: so a benchmark needs no data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.randomness import Purpose, normal

IMAGES = 1024


class RandomLatents:
    """A `Dataset` of IMAGES random posteriors in host memory, float16 as in a store."""

    heldout = 0

    def __init__(self, config: Config, device: torch.device) -> None:
        side = config.resolution // config.data.downsample
        self.shape = (config.data.channels, side, side)
        self.device, self.classes = device, config.data.classes
        generator = np.random.default_rng(0)
        self.posteriors = generator.standard_normal((IMAGES, 2, *self.shape), dtype=np.float32).astype(np.float16)

    def __len__(self) -> int:
        return IMAGES

    def draw(self, items: np.ndarray, seed: int, step: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        posterior, labels = torch.from_numpy(self.posteriors[items]), torch.from_numpy(items % self.classes)
        if self.device.type == "cuda":
            posterior, labels = posterior.pin_memory(), labels.pin_memory()
        mean, std = posterior.to(self.device, non_blocking=True).float().unbind(1)
        eps = normal(seed, Purpose.POSTERIOR, step, positions, self.shape)
        return torch.addcmul(mean, std, eps), labels.to(self.device, non_blocking=True)

    def heldout_part(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        raise IndexError("random latents hold none out")
