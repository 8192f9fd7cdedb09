"""A store of VAE posteriors: of each image and its mirror image the mean and standard deviation, in mapped shards.

    manifest.json     what the store holds; written last, so a folder that has it is whole. Its sha256 is the data's
                      identity: nothing in it depends on where or when the store was made.
    shards/00000.npy  (n, 2, 2, C, h, w) float16: image; as it is, mirrored; mean, standard deviation; unscaled
    labels.npy        (N,) int32          heldout.npy  (N,) bool: evaluated on, never trained on
    names.txt         one source image per line, in the order of the store
    made.json         for people: paths, the VAE's name, host, time        skipped.txt  images left out, and why

Written by `fcdm.data.prepare_store`. Importing this is torch-free.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcdm.data import manifest
from fcdm.data.mapped_store import MappedStore

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LATENTS = ("posterior", "frozen")
FLIPS = ("none", "random", "frozen")
FROZEN_SEED = 0
"""Of the one draw and the one flip per image that `frozen` means, whatever the run's seed."""


class HostBatch(NamedTuple):
    """n images of a store, on the CPU."""

    numbers: Tensor
    """(n,) int64: where they stand in the store."""
    posterior: Tensor
    """(n, 2, C, h, w) float16: mean and standard deviation, unscaled, mirrored where that was asked."""
    labels: Tensor
    """(n,) int64."""


class LatentsStore(MappedStore):
    """Random access to a store of latents; arguments as `MappedStore`."""

    def __init__(self, folder: str | Path, **asked: Any) -> None:
        super().__init__(folder, np.dtype(np.float16), kind=manifest.LATENTS, **asked)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return 2, 2, *self.latent_shape

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.manifest.channels, self.manifest.side, self.manifest.side

    def read(
        self,
        indices: NDArray[np.int64],
        mirrored: NDArray[np.bool_] | None = None,
        out: NDArray[np.float16] | None = None,
    ) -> NDArray[np.float16]:
        """Mean and standard deviation, unscaled, (n, 2, C, h, w), at `indices` (n,), mirrored where `mirrored` (n,).

        Written into `out` where it is given. Raises IndexError outside of 0 ... N - 1.
        """
        found = np.empty((len(indices), 2, *self.latent_shape), dtype=np.float16) if out is None else out
        flips = [0] * len(indices) if mirrored is None else mirrored.astype(np.intp).tolist()
        shards, rows = self.places(indices)
        # The kernel is told of all of them first and reads them at once: cold, 4.6 times as fast as one after another.
        for shard, row, flip in zip(shards, rows, flips, strict=True):
            self.shards[shard].will_need(2 * row + flip, 2)
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

        (mean + standard deviation * eps - shift) * scaling factor, with

        - latents="posterior": the caller's `eps` (n, C, h, w), standard normal, fresh for each visit;
          latents="frozen": one draw per image, a function of its index alone (the public code's way);
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
        shape = (len(indices), 2, *self.latent_shape)
        posterior = torch.empty(shape, dtype=torch.float16, pin_memory=pin)
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
        mean, std = fetched.posterior.to(device, non_blocking=True).float().unbind(1)
        if eps is None:
            numbers = fetched.numbers.to(device, non_blocking=True)
            eps = normal(FROZEN_SEED, Purpose.POSTERIOR, 0, numbers, self.latent_shape)
        scaled = torch.addcmul(mean, std, eps.to(device)).sub_(self.manifest.shift_factor)
        return scaled.mul_(self.manifest.scaling_factor), fetched.labels.to(device, non_blocking=True)
