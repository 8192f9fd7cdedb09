"""What the engine trains on: images (or latents) and labels by index, and a held-out set to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fcdm.config.schema import Config, DataConfig
from fcdm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
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
    elif data.path is not None:
        from fcdm.data.manifest import check_manifest, manifest_checksum, read_manifest

        folder = Path(data.path)
        if not folder.exists():
            raise UserError(
                f"no latents store of {data.name} at {folder} (data.path): run `python -m fcdm.prepare latents "
                f"--images <folder of class folders> resolution={resolution}` to make one, or model=N trains on the "
                "bundled digits"
            )
        check_manifest(
            folder,
            read_manifest(folder),
            resolution=resolution,
            channels=data.channels,
            downsample=data.downsample,
            classes=data.classes,
            vae=data.vae,
        )
        known = manifest_checksum(folder)
    else:
        raise UserError(f"data.name={data.name} is not known: digits, or data.path=<a latents store>")
    if data.checksum not in (None, known):
        raise UserError(f"data.checksum={data.checksum} asks for other data than {data.name} has ({known})")
    return known


class Dataset(Protocol):
    """What the engine trains on, and holds out."""

    device: torch.device

    def __len__(self) -> int:
        """Images to train on."""

    def draw(
        self, items: np.ndarray, seed: int, step: int, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x0 (n, C, side, side) and labels (n,) of the training images `items` (n,), which stand at `positions` (n,)
        of the global batch of step `step`: flips and posterior draws are functions of (seed, step, position)."""

    @property
    def heldout(self) -> int:
        """Number of images that are held out."""

    def heldout_part(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Those from `start` to `end`: x0 and labels, always the same."""


def open_dataset(config: Config, device: torch.device) -> Dataset:
    """The data that the configuration names. Raises UserError where it is not there or of another kind."""
    if config.data.name == "digits":
        return PixelDataset(config, device)
    return LatentsDataset(config, device)


class PixelDataset:
    """The digits: images that fit in memory, on the training device.

    images: (N, C, side, side) float32 in [-1, 1]; labels: (N,) int64; held-out images and labels likewise.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        import torch

        from fcdm.data.digits import load_digits_split

        split = load_digits_split(config.resolution)
        self.device = device
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

    def draw(
        self, items: np.ndarray, seed: int, step: int, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        from fcdm.randomness import Purpose, uniform

        x0, labels = self.batch(items)
        if self.flip:
            mirrored = uniform(seed, Purpose.FLIP, step, positions, ()) < 0.5
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        return x0, labels

    @property
    def heldout(self) -> int:
        return len(self.heldout_images)

    def heldout_part(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.heldout_images[start:end], self.heldout_labels[start:end]


class LatentsDataset:
    """A latents store of `python -m fcdm.prepare latents`, read from the page cache as it is needed."""

    def __init__(self, config: Config, device: torch.device) -> None:
        from fcdm.data.latents import LatentsStore

        data = config.data
        assert data.path is not None
        self.store = LatentsStore(
            data.path,
            resolution=config.resolution,
            channels=data.channels,
            downsample=data.downsample,
            classes=data.classes,
        )
        if data.checksum not in (None, self.store.checksum):
            raise UserError(f"the latents store {data.path} is another than the run's: its manifest has changed")
        self.device, self.latents, self.flip = device, data.latents, data.flip

    def __len__(self) -> int:
        return len(self.store.train_indices)

    def draw(
        self, items: np.ndarray, seed: int, step: int, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from fcdm.randomness import Purpose, normal, uniform

        eps = mirrored = None
        if self.latents == "posterior":
            eps = normal(seed, Purpose.POSTERIOR, step, positions, self.store.latent_shape)
        if self.flip == "random":  # on the CPU: the toss decides what is read
            mirrored = uniform(seed, Purpose.FLIP, step, positions.cpu(), ()) < 0.5
        return self.store.batch(
            self.store.train_indices[items],
            self.device,
            latents=self.latents,
            flip=self.flip,
            eps=eps,
            mirrored=mirrored,
        )

    @property
    def heldout(self) -> int:
        return len(self.store.heldout_indices)

    def heldout_part(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.store.batch(self.store.heldout_indices[start:end], self.device, latents="frozen", flip="none")
