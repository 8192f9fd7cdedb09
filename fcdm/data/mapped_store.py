"""Any store, mapped: its images by number from the page cache, its labels, its split. Importing this is torch-free."""

from __future__ import annotations

import contextlib
import mmap
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.manifest import ASIDE, HELDOUT, LABELS, Shard, check_manifest, manifest_checksum, read_manifest
from fcdm.errors import UserError
from fcdm.features.enough_images import Parts


class MappedStore:
    """Shards are mapped: what was read once comes from the page cache.

    `asked`: the kind of store that is wanted, as `check_manifest` takes it. Raises UserError, in one line, where the
    folder is no whole store, or one of another kind.
    """

    def __init__(self, folder: str | Path, **asked: Any) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.dtype: np.dtype[Any] = np.dtype(self.manifest.dtype)
        check_manifest(self.folder, self.manifest, **asked)
        self.checksum = manifest_checksum(self.folder)
        self.labels: NDArray[np.int64] = self._array(LABELS, np.int32).astype(np.int64)
        """(N,), in the order of the store."""
        heldout = self._array(HELDOUT, np.bool_)
        aside = self._array(ASIDE, np.bool_) if self.manifest.aside else np.zeros_like(heldout)
        self.heldout_indices: NDArray[np.int64] = np.flatnonzero(heldout)
        self.aside_indices: NDArray[np.int64] = np.flatnonzero(aside)
        """What networks that evaluate are trained on."""
        self.train_indices: NDArray[np.int64] = np.flatnonzero(~heldout & ~aside)
        self._starts = np.cumsum([0, *(shard.images for shard in self.manifest.shards)])
        self.shards = [self._map(shard) for shard in self.manifest.shards]

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Of what is kept of one image."""

    def refuse_other(self, checksum: str | None) -> None:
        """Raises UserError where it is another than that of the run, whose checksum this is; None: any will do."""
        if checksum not in (None, self.checksum):
            raise UserError(
                f"the {self.manifest.kind} store {self.folder} is another than the run's: its manifest has changed"
            )

    @property
    def parts(self) -> Parts:
        """How many images each has."""
        return Parts(len(self.train_indices), len(self.heldout_indices), len(self.aside_indices))

    def __len__(self) -> int:
        return self.manifest.images

    def places(self, indices: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The shards of the images (n,), and their rows in them. Raises IndexError outside of 0 ... N - 1."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"indices from {indices.min()} to {indices.max()}, but the store has {len(self)} images")
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        return shards.tolist(), (indices - self._starts[shards]).tolist()

    def _array(self, name: str, dtype: Any) -> NDArray[Any]:
        path = self.folder / name
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}): make the store anew") from None
        if found.shape != (len(self),) or found.dtype != dtype:
            raise UserError(f"{path} has shape {found.shape} and type {found.dtype}, not those of its manifest")
        return np.asarray(found)

    def _map(self, shard: Shard) -> MappedShard:
        path = self.folder / shard.file
        shape = (shard.images, *self.row_shape)
        try:
            with path.open("rb") as file:
                header = np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)
                offset = file.tell()
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): make the store anew, or copy it again") from None
        # Checked here: to touch a page behind the end of a file would kill the process.
        if header != (shape, False, self.dtype) or len(mapped) != offset + self.dtype.itemsize * int(np.prod(shape)):
            raise UserError(f"{path} is not as its manifest says (cut short?): make the store anew, or copy it again")
        return MappedShard(mapped, offset, shape, self.dtype)


class MappedShard:
    """One shard, mapped read-only."""

    def __init__(self, mapped: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._mapped, self._offset = mapped, offset
        self.array: NDArray[Any] = np.frombuffer(mapped, dtype, offset=offset).reshape(shape)
        self._row = dtype.itemsize * int(np.prod(shape[1:]))
        """Bytes of one image."""

    def will_need(self, part: int, parts: int = 1) -> None:
        """Tells the kernel that part number `part` will be read, of images of `parts` equal parts each."""
        length = self._row // parts
        start = self._offset + part * length
        page = start - start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_WILLNEED"):
            with contextlib.suppress(OSError):
                self._mapped.madvise(mmap.MADV_WILLNEED, page, start + length - page)
