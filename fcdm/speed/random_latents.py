"""Latents that mean nothing, read and used as those of a store are: so a benchmark needs no data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.randomness import Asked, Normal, Purpose

IMAGES = 1024


class RandomLatents:
    """A `Dataset` of IMAGES random posteriors in host memory, float16 as in a store."""

    heldout = 0
    reads_files = True  # fetched in a thread, as a store's
    host_draws: tuple[Asked, ...] = ()

    def __init__(self, config: Config, device: torch.device) -> None:
        side = config.resolution // config.data.downsample
        self.shape = (config.data.channels, side, side)
        self.device, self.classes = device, config.data.classes
        self.device_draws: tuple[Asked, ...] = (Normal(Purpose.POSTERIOR, self.shape),)
        generator = np.random.default_rng(0)
        self.posteriors = generator.standard_normal((IMAGES, 2, *self.shape), dtype=np.float32).astype(np.float16)

    def __len__(self) -> int:
        return IMAGES

    def fetch(self, items: np.ndarray, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        posterior, labels = torch.from_numpy(self.posteriors[items]), torch.from_numpy(items % self.classes)
        return (posterior.pin_memory(), labels.pin_memory()) if self.device.type == "cuda" else (posterior, labels)

    def finish(self, fetched: tuple[Tensor, Tensor], drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        posterior, labels = (part.to(self.device, non_blocking=True) for part in fetched)
        mean, std = posterior.float().unbind(1)
        return torch.addcmul(mean, std, drawn[0]), labels

    def unaltered(self, items: np.ndarray, heldout: bool) -> tuple[Tensor, Tensor]:
        raise IndexError("random latents are trained on alone")
