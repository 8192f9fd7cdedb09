"""What the engine trains on: images (or latents) and labels by index, and a held-out set to judge on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcdm.config.schema import Config, DataConfig
from fcdm.errors import UserError

if TYPE_CHECKING:
    import torch


def data_checksum(data: DataConfig, resolution: int) -> str:
    """The identity of the training data, without loading it. Raises UserError where the data is not there."""
    if data.name == "digits":
        from fcdm.data.digits import DIGITS_CHECKSUM, RESOLUTIONS

        if (data.channels, data.classes, data.downsample) != (1, 10, 1):
            raise UserError("data=digits has data.channels=1, data.classes=10 and data.downsample=1: leave these")
        if resolution not in RESOLUTIONS:
            raise UserError(f"digits come at 8, 16 or 32 pixels, not {resolution}: set resolution=8, 16 or 32")
        known = DIGITS_CHECKSUM
    elif data.name == "imagenet":
        raise UserError(
            f"no latents store of ImageNet at {Path(data.path or '')} (data.path): run `python -m fcdm.prepare "
            f"latents resolution={resolution}` to make one (it comes with fcdm 0.2); "
            "model=N trains on the bundled digits today"
        )
    else:
        raise UserError(f"data.name={data.name} is not known: digits, imagenet")
    if data.checksum not in (None, known):
        raise UserError(f"data.checksum={data.checksum} asks for other data than {data.name} has ({known})")
    return known


class Dataset:
    """A data set that fits in memory, on the training device.

    images: (N, C, side, side) float32 in [-1, 1]; labels: (N,) int64; held-out images and labels likewise.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        import torch

        from fcdm.data.digits import load_digits_split

        split = load_digits_split(config.resolution)
        self.flip = config.data.flip == "random"
        self.images = torch.from_numpy(split.train_images).to(device)
        self.labels = torch.from_numpy(split.train_labels).to(device)
        self.heldout_images = torch.from_numpy(split.heldout_images).to(device)
        self.heldout_labels = torch.from_numpy(split.heldout_labels).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """images (n, C, side, side) and labels (n,) at `indices` (n,)."""
        import torch

        chosen = torch.from_numpy(indices).to(self.images.device)
        return self.images[chosen], self.labels[chosen]


class DataOrder:
    """Which item stands at which place of the endless stream of shuffled epochs.

    A pure function of (seed, place): no state, so a resume needs none, and any rank can ask for its part.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def items(self, start: int, count: int) -> np.ndarray:
        """Indices (count,) int64 of places start ... start + count - 1."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.size)
        found = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            found[here] = self._shuffled(epoch)[offsets[here]]
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            # Sorting raw words: numpy promises the bit stream of Philox, not Generator.permutation's use of it.
            words = np.random.Philox(key=[self.seed, epoch]).random_raw(self.size)
            self._epoch, self._permutation = epoch, np.argsort(words, kind="stable")
        return self._permutation
