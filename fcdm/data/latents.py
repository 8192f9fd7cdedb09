"""A store of VAE posteriors: of each image and its mirror image the mean and standard deviation, in mapped shards.

    manifest.json     what the store holds; written last, so a folder that has it is whole. Its sha256 is the data's
                      identity: nothing in it depends on where or when the store was made.
    shards/00000.npy  (n, 2, 2, C, h, w) float16: image; as it is, mirrored; mean, standard deviation; unscaled. Of an
                      import (n, flips, parts, C, h, w), flips and parts 1 or 2, values and type as they were
    channels.json     mean and deviation of each channel (`fcdm.data.channels`)
    labels.npy        (N,) int32          heldout.npy  (N,) bool: evaluated on, never trained on
    names.txt         one source image per line, in the order of the store
    made.json         for people: paths, the VAE's name, host, time        skipped.txt  images left out, and why

Written by `fcdm.data.prepare_store`, imports with `fcdm.data.import_latents`. Importing this is torch-free.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcdm.codecs.normalisation import Channels
from fcdm.data import manifest
from fcdm.data.mapped_store import MappedStore
from fcdm.data.pixel_batches import FROZEN_SEED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LATENTS = ("posterior", "frozen")
FLIPS = ("none", "random", "frozen")


class HostBatch(NamedTuple):
    """n images of a store, on the CPU."""

    numbers: Tensor
    """(n,) int64: where they stand in the store."""
    posterior: Tensor
    """(n, parts, C, h, w), as stored: mean and standard deviation, or one latent; mirrored where that was asked."""
    labels: Tensor
    """(n,) int64."""


class LatentsStore(MappedStore):
    """Random access to a store of latents; arguments as `MappedStore`.

    normalised: models see (latent - mean) / deviation of each channel; null: (latent - shift) * the VAE's factor.
    """

    def __init__(self, folder: str | Path, normalised: Channels | None = None, **asked: Any) -> None:
        super().__init__(folder, kind=manifest.LATENTS, **asked)
        self._moved: dict[tuple[torch.device, int], Tensor] = {}
        self.shift: float | NDArray[np.float64]
        self.factor: float | NDArray[np.float64]
        self.shift, self.factor = self._affine(normalised)
        """(C,) float64, or numbers for all channels: models see (stored - shift) * factor."""

    def _affine(
        self, channels: Channels | None
    ) -> tuple[float, float] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        stored, found = self.stored, self.manifest
        if channels is None:
            # Latents that the VAE's own factor scaled come out as they were, to the last bit: less 0, times 1.
            return (found.shift_factor - stored.shift) * stored.scale, found.scaling_factor / stored.scale
        mean, deviation = np.array(channels.mean), np.array(channels.deviation)
        return (mean - stored.shift) * stored.scale, 1 / (deviation * stored.scale)

    @property
    def stored(self) -> manifest.Stored:
        """How an image is kept."""
        return self.manifest.stored

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.stored.flips, self.stored.parts, *self.latent_shape

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.manifest.channels, self.manifest.side, self.manifest.side

    def read(
        self,
        indices: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """What is stored, (n, parts, C, h, w), at `indices` (n,), of the mirror image where `mirrored` (n,).

        Written into `out` where it is given. Raises IndexError outside of 0 ... N - 1.
        """
        found = np.empty((len(indices), *self.row_shape[1:]), dtype=self.dtype) if out is None else out
        flips = [0] * len(indices) if mirrored is None else mirrored.astype(np.intp).tolist()
        shards, rows = self.places(indices)
        # The kernel is told of all of them first and reads them at once: cold, 4.6 times as fast as one after another.
        for shard, row, flip in zip(shards, rows, flips, strict=True):
            self.shards[shard].will_need(self.stored.flips * row + flip, self.stored.flips)
        # In the order of the disk. A plain loop: items of one batch seldom share a shard.
        for item in np.argsort(indices, kind="stable").tolist():
            found[item] = self.shards[shards[item]].array[rows[item], flips[item]]
        return found

    def batch(
        self,
        indices: NDArray[np.int64],
        device: str | torch.device = "cpu",
        *,
        latents: str = "posterior",
        flip: str = "none",
        eps: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents as models see them, (n, C, h, w) float32, and labels (n,) int64, on the device.

        (mean + standard deviation * eps - shift) * factor, with

        - latents="posterior": the caller's `eps` (n, C, h, w), standard normal, fresh for each visit;
          latents="frozen": one draw per image, a function of its index alone (the public code's way), or the one
          that was imported;
        - flip="random": mirrored where the caller's `mirrored` (n,) bool says so (on the CPU, since it decides what
          is read); "frozen": one toss per image, a function of its index alone; "none": never.
          The mirror image went through the VAE itself: it is not the mirrored latent.
        """
        import torch

        device = torch.device(device)
        fetched = self.fetch(indices, flip=flip, mirrored=mirrored, pin=device.type == "cuda")
        return self.finish(fetched, device, latents=latents, eps=eps)

    def fetch(
        self, indices: NDArray[np.int64], *, flip: str = "none", mirrored: Tensor | None = None, pin: bool = False
    ) -> HostBatch:
        """The first half of `batch`, on the CPU; with `pin` in memory that a copy to a GPU need not wait for."""
        import torch

        from fcdm.randomness import Purpose, uniform

        if flip not in FLIPS:
            raise ValueError(f"flip={flip} (of {FLIPS})")
        if (flip == "random") != (mirrored is not None):
            raise ValueError("mirrored goes with flip=random, and only with it")
        numbers = torch.from_numpy(np.ascontiguousarray(indices))
        if flip == "frozen":
            mirrored = uniform(FROZEN_SEED, Purpose.FLIP, 0, numbers, ()) < 0.5
        shape = (len(indices), *self.row_shape[1:])
        posterior = torch.empty(shape, dtype=getattr(torch, self.dtype.name), pin_memory=pin)
        self.read(indices, None if mirrored is None else mirrored.numpy(), posterior.numpy())
        labels = torch.from_numpy(self.labels[indices])
        if pin:
            numbers, labels = numbers.pin_memory(), labels.pin_memory()
        return HostBatch(numbers, posterior, labels)

    def finish(
        self, fetched: HostBatch, device: torch.device, *, latents: str = "posterior", eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The second half of `batch`, on the device."""
        import torch

        from fcdm.randomness import Purpose, normal

        if latents not in LATENTS:
            raise ValueError(f"latents={latents} (of {LATENTS})")
        if (latents == "posterior") != (eps is not None):
            raise ValueError("eps goes with latents=posterior, and only with it")
        parts = fetched.posterior.to(device, non_blocking=True).float().unbind(1)
        labels = fetched.labels.to(device, non_blocking=True)
        shift, factor = (self._on(device, value) for value in (self.shift, self.factor))
        if len(parts) == 1:
            return (parts[0] - shift) * factor, labels
        if eps is None:
            numbers = fetched.numbers.to(device, non_blocking=True)
            eps = normal(FROZEN_SEED, Purpose.POSTERIOR, 0, numbers, self.latent_shape)
        return torch.addcmul(parts[0], parts[1], eps.to(device)).sub_(shift).mul_(factor), labels

    def _on(self, device: torch.device, value: float | NDArray[np.float64]) -> float | Tensor:
        """A number as it is; those of channels (C, 1, 1) float32 on the device."""
        import torch

        if isinstance(value, float):
            return value
        key = device, id(value)
        if key not in self._moved:  # once: a copy from the CPU waits for the device
            self._moved[key] = torch.as_tensor(value, dtype=torch.float32, device=device)[:, None, None]
        return self._moved[key]
