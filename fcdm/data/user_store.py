"""Images in memory, as a store of pixels is read where samples are compared with real images: a data set of the user's
own, and the digits for an extractor of the user's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcdm.config.schema import Config
from fcdm.data.user_data import images_of
from fcdm.hashing import cache_folder
from fcdm.metrics.rounding import to_uint8

if TYPE_CHECKING:
    from torch import Tensor


class MemoryStore:
    """Images as bytes: those that are trained on first, then those held out."""

    def __init__(self, train: Tensor, heldout: Tensor) -> None:
        """Images (n, C, S, S): bytes, or floats in [-1, 1]."""
        tensors = [part if part.dtype.itemsize == 1 else to_uint8(part) for part in (train, heldout)]
        self._images = np.concatenate([tensor.cpu().numpy() for tensor in tensors])
        self.train_indices: NDArray[np.int64] = np.arange(len(train))
        self.heldout_indices: NDArray[np.int64] = np.arange(len(train), len(train) + len(heldout))
        # Of what is in it, not of its code: what is kept of these images must not be taken for that of others.
        digest = hashlib.sha256(repr((self._images.shape, len(train))).encode())
        digest.update(np.ascontiguousarray(self._images).data)
        self.checksum = digest.hexdigest()

    @property
    def folder(self) -> Path:
        """Where features of the images are kept."""
        return cache_folder() / "stores" / self.checksum[:16]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images (n, C, S, S) at `indices` (n,)."""
        return self._images[indices]


class UserStore(MemoryStore):
    """Those of a data set of the user's own."""

    def __init__(self, config: Config) -> None:
        """Raises UserError where the data set cannot be made."""
        train, heldout = images_of(config)
        super().__init__(train.images, heldout.images)
