"""What the engine trains on: images (or latents) and labels by index, and a held-out set to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fcdm.config.schema import Config, DataConfig
from fcdm.data.memory_dataset import ImageSide, MemoryDataset
from fcdm.data.pixel_batches import from_uint8, mirrored
from fcdm.data.user_data import UserDataset, own_checksum
from fcdm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from fcdm.data.latents import HostBatch
    from fcdm.randomness import Asked


def data_checksum(data: DataConfig, resolution: int) -> str:
    """The identity of the training data, without loading it. Raises UserError where the data is not there."""
    if data.target is not None:
        known = own_checksum(data)
    elif data.name == "digits":
        from fcdm.data.digits import DIGITS_CHECKSUM, RESOLUTIONS

        if (data.channels, data.classes, data.downsample) != (1, 10, 1):
            raise UserError("data=digits has data.channels=1, data.classes=10 and data.downsample=1: leave these")
        if resolution not in RESOLUTIONS:
            raise UserError(f"digits come at 8, 16 or 32 pixels, not {resolution}: set resolution=8, 16 or 32")
        known = DIGITS_CHECKSUM
    elif data.path is not None:
        from fcdm.data.manifest import PIXELS, check_manifest, manifest_checksum, read_manifest
        from fcdm.features.enough_images import refuse_few

        folder = Path(data.path)
        if not folder.exists():
            raise UserError(
                f"no store of {data.name} at {folder} (data.path): `python -m fcdm.prepare images images=<folder of "
                f"images> resolution=32 out={folder}` makes one of pixels, `fcdm.prepare latents ... resolution=256` "
                "one of a VAE's latents; or model=N trains on the bundled digits"
            )
        manifest = read_manifest(folder)
        check_manifest(
            folder,
            manifest,
            resolution=resolution,
            channels=data.channels,
            downsample=data.downsample,
            classes=data.classes,
            vae=data.vae,
            latents=data.latents,
            flip=data.flip,
        )
        if manifest.kind == PIXELS:
            refuse_few(f"data.path={folder}", manifest.parts)
        known = manifest_checksum(folder)
    else:
        raise UserError(
            f"data.name={data.name} is no data that is bundled: say data.path=<a store> (`python -m fcdm.prepare "
            "images` makes one), or data=digits"
        )
    if data.checksum not in (None, known):
        raise UserError(f"data.checksum={data.checksum} asks for other data than {data.name} has ({known})")
    return known


class Dataset(Protocol):
    """What the engine trains on, and holds out.

    A batch is made in two stages: `fetch` on the CPU, in a thread of its own where it reads files, and `finish` on the
    device. What either draws is a function of (seed, step, place in the batch), so the dataset only says what it asks.
    """

    device: torch.device
    reads_files: bool
    """Whether `fetch` may have to wait for a disk."""
    host_draws: tuple[Asked, ...]
    """What each image draws on the CPU, for `fetch`."""
    device_draws: tuple[Asked, ...]
    """What each image draws on the device, for `finish`."""

    def __len__(self) -> int:
        """Images to train on."""

    def fetch(self, items: np.ndarray, drawn: Sequence[torch.Tensor]) -> Any:
        """What `finish` needs of the training images `items` (n,), on the CPU. Touches no device but to pin memory."""

    def finish(self, fetched: Any, drawn: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """x0 (n, C, side, side) and labels (n,) on the device, which is not waited for."""

    @property
    def heldout(self) -> int:
        """Number of images that are held out."""

    def unaltered(self, items: np.ndarray, heldout: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """x0 and labels of the images `items` (n,) that are held out, or trained on: not mirrored, always the same."""


def open_dataset(config: Config, device: torch.device) -> Dataset:
    """The data that the configuration names. Raises UserError where it is not there or of another kind."""
    if config.data.target is not None:
        return UserDataset(config, device)
    if config.data.name == "digits":
        return PixelDataset(config, device)
    return PixelStoreDataset(config, device) if config.data.downsample == 1 else LatentsDataset(config, device)


class PixelDataset(MemoryDataset):
    """The digits: float32 images (N, 1, side, side)."""

    def __init__(self, config: Config, device: torch.device) -> None:
        import torch

        from fcdm.data.digits import load_digits_split

        split = load_digits_split(config.resolution)
        train, held = (
            ImageSide(torch.from_numpy(images), torch.from_numpy(labels))
            for images, labels in (
                (split.train_images, split.train_labels),
                (split.heldout_images, split.heldout_labels),
            )
        )
        super().__init__(train, held, config.data.flip, device)


class PixelStoreDataset:
    """A store of `python -m fcdm.prepare images`, read from the page cache as it is needed."""

    reads_files = True
    host_draws: tuple[Asked, ...] = ()

    def __init__(self, config: Config, device: torch.device) -> None:
        from fcdm.data.pixel_store import PixelStore
        from fcdm.randomness import Purpose, Uniform

        data = config.data
        assert data.path is not None
        self.store = PixelStore(data.path, resolution=config.resolution, channels=data.channels, classes=data.classes)
        self.store.refuse_other(data.checksum)
        self.device, self.flip = device, data.flip
        self.device_draws: tuple[Asked, ...] = (Uniform(Purpose.FLIP, ()),) if data.flip == "random" else ()

    def __len__(self) -> int:
        return len(self.store.train_indices)

    def fetch(
        self, items: np.ndarray, drawn: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._read(self.store.train_indices[items])

    def finish(
        self, fetched: tuple[torch.Tensor, torch.Tensor, torch.Tensor], drawn: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels, numbers = (part.to(self.device, non_blocking=True) for part in fetched)
        return mirrored(from_uint8(pixels), self.flip, drawn, numbers), labels

    @property
    def heldout(self) -> int:
        return len(self.store.heldout_indices)

    def unaltered(self, items: np.ndarray, heldout: bool) -> tuple[torch.Tensor, torch.Tensor]:
        indices = self.store.heldout_indices if heldout else self.store.train_indices
        pixels, labels, _ = self._read(indices[items])
        return from_uint8(pixels.to(self.device)), labels.to(self.device)

    def _read(self, numbers: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels (n, C, S, S) uint8, labels (n,) and numbers (n,) in the store, on the CPU."""
        import torch

        pin = self.device.type == "cuda"
        pixels = torch.empty((len(numbers), *self.store.row_shape), dtype=torch.uint8, pin_memory=pin)
        self.store.read(numbers, pixels.numpy())
        labels, places = torch.from_numpy(self.store.labels[numbers]), torch.from_numpy(numbers.copy())
        return (pixels, labels.pin_memory(), places.pin_memory()) if pin else (pixels, labels, places)


class LatentsDataset:
    """A latents store of `python -m fcdm.prepare latents`, read from the page cache as it is needed."""

    reads_files = True

    def __init__(self, config: Config, device: torch.device) -> None:
        from fcdm.codecs.normalisation import channels_of
        from fcdm.data.latents import LatentsStore
        from fcdm.randomness import Normal, Purpose, Uniform

        data = config.data
        assert data.path is not None
        self.store = LatentsStore(
            data.path,
            normalised=channels_of(data.channel_mean, data.channel_deviation),
            resolution=config.resolution,
            channels=data.channels,
            downsample=data.downsample,
            classes=data.classes,
        )
        self.store.refuse_other(data.checksum)
        self.device, self.latents, self.flip = device, data.latents, data.flip
        # The toss decides what is read.
        self.host_draws: tuple[Asked, ...] = (Uniform(Purpose.FLIP, ()),) if data.flip == "random" else ()
        posterior = Normal(Purpose.POSTERIOR, self.store.latent_shape)
        self.device_draws: tuple[Asked, ...] = (posterior,) if data.latents == "posterior" else ()

    def __len__(self) -> int:
        return len(self.store.train_indices)

    def fetch(self, items: np.ndarray, drawn: Sequence[torch.Tensor]) -> HostBatch:
        mirrored = drawn[0] < 0.5 if drawn else None
        pin = self.device.type == "cuda"
        return self.store.fetch(self.store.train_indices[items], flip=self.flip, mirrored=mirrored, pin=pin)

    def finish(self, fetched: HostBatch, drawn: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.store.finish(fetched, self.device, latents=self.latents, eps=drawn[0] if drawn else None)

    @property
    def heldout(self) -> int:
        return len(self.store.heldout_indices)

    def unaltered(self, items: np.ndarray, heldout: bool) -> tuple[torch.Tensor, torch.Tensor]:
        indices = self.store.heldout_indices if heldout else self.store.train_indices
        return self.store.batch(indices[items], self.device, latents="frozen", flip="none")
