"""A store of square 8-bit images, grey or RGB, in mapped shards.

    manifest.json     what the store holds; written last, so a folder that has it is whole. Its sha256 is the data's
                      identity: nothing in it depends on where or when the store was made.
    shards/00000.npy  (n, C, S, S) uint8
    labels.npy        (N,) int32
    heldout.npy       (N,) bool: evaluated against, never trained on
    aside.npy         (N,) bool: what networks that evaluate are trained on; no generator sees it
    names.txt         one source image per line, in the order of the store
    made.json         for people: paths, host, time        skipped.txt  images left out, and why

Written by `fcdm.data.prepare_store`. Importing this is torch-free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.manifest import PIXELS
from fcdm.data.mapped_store import MappedStore


class PixelStore(MappedStore):
    """Random access to a store of pixels; arguments as `MappedStore`."""

    def __init__(self, folder: str | Path, **asked: Any) -> None:
        super().__init__(folder, kind=PIXELS, **asked)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.manifest.channels, self.manifest.side, self.manifest.side

    def read(self, indices: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The images (n, C, S, S) at `indices` (n,), written into `out` where it is given. Raises IndexError."""
        found = np.empty((len(indices), *self.row_shape), dtype=np.uint8) if out is None else out
        shards, rows = (np.array(part, dtype=np.int64) for part in self.places(indices))
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            found[here] = self.shards[shard].array[rows[here]]
        return found
