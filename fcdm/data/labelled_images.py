"""What every layout of a data set is read as: images by number, with labels, in an order that never changes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.images.crop import Source

UNLABELLED = "unlabelled"
"""The one class of images without labels."""
LARGEST = 1_000_000
"""Class numbers are below this: beyond, it is an id of something else."""


@dataclass(frozen=True)
class SourceOptions:
    """What the user says of a source; null: what is there decides."""

    labels: str | None = None
    """A json, csv or tsv file of labels; `folders`: class folders, whatever else is there; `none`: one class."""
    image_key: str | None = None
    label_key: str | None = None
    """Columns of tables."""
    split: str | None = None
    """One of several, such as `validation`."""
    value_range: str | None = None
    layout: str | None = None
    """Of arrays."""

    def said(self) -> dict[str, str]:
        """What was said, by name."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


AS_IT_IS = SourceOptions()


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labelled images in a fixed order: by class folder, then by path; or by file, then by row."""

    kind: str
    """`folder`, `parquet`, `arrow`, `npz`, `npy`, `idx`; of others' latents `latents` or `zarr`."""
    root: Path
    names: list[str]
    """Path below the root with `/`, or `<file>:<row>`; one per image. Rows of arrays count from 0."""
    labels: NDArray[np.int32]
    """(N,)."""
    classes: list[str]
    read: Callable[[int], Source]
    """Image number -> its file, its bytes or its pixels. Safe in threads. Raises Unreadable."""
    notes: tuple[str, ...] = ()
    """What a person should know of it."""
    files: tuple[str, ...] | None = None
    """Below the root: those that hold the images; null: the names themselves."""
    test: NDArray[np.bool_] | None = None
    """(N,): which images are of the source's own test split; null: it has none, or it was not asked for."""

    def __len__(self) -> int:
        return len(self.names)

    def stamp(self, images: range | None = None) -> str:
        """Changes when a file does: sha256 of the names, sizes and times of the files that it was listed from.

        images: numbers of images; of a source with a file for each, theirs alone. A file that is gone is no error.
        """
        if self.files is not None:
            return self._stamp_of_all
        return self._stamp(self.names if images is None else self.names[images.start : images.stop])

    @cached_property
    def _stamp_of_all(self) -> str:
        """Once a process, before what is stamped is read: a million chunks are not looked at again for each shard."""
        return self._stamp(self.files or ())

    def _stamp(self, names: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            size, time = 0, 0
            with contextlib.suppress(OSError):
                status = (self.root / name).stat()
                size, time = status.st_size, status.st_mtime_ns
            digest.update(f"{name}\t{size}\t{time}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def checksum(self) -> str:
        """sha256 of the names and labels in their order; not of where they lie, nor of the pixels."""
        digest = hashlib.sha256()
        for name, label in zip(self.names, self.labels.tolist(), strict=True):
            digest.update(f"{label}\t{name}\n".encode("utf-8", "surrogateescape"))
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()


def some(names: list[str], shown: int = 6) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")
