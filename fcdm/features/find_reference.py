"""What a `reference=` is: statistics in ADM's format, or images to make them of. Torch-free."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from fcdm.errors import UserError
from fcdm.hashing import cache_folder, known_sha256
from fcdm.images.listing import content_sha256, samples_within

STATISTICS = ("mu.npy", "sigma.npy")


def is_statistics(path: Path) -> bool:
    """Whether the file holds statistics (or what is left of them), and not only images. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            return not {*STATISTICS}.isdisjoint(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def reference_identity(path: Path) -> str:
    """What a protocol says of a reference: 8 hex digits of the file's sha256, or `images-` and 8 of their content's.

    Of images no more than names, headers and bytes are read. Raises UserError where they cannot be a reference.
    """
    if is_statistics(path):
        return known_sha256(path)[:8]
    from fcdm.images.open_images import open_images

    with open_images(path, real=True):
        pass  # refused now, and not after a training
    return f"images-{content_sha256(samples_within(path))[:8]}"


def statistics_of_images(path: Path, side: int, extractor: str) -> Path:
    """Where the statistics of the images at `path`, brought to `side` pixels, are kept: beside them, else in the cache.

    The name holds the images' identity, so that other images have another file.
    """
    name = f"{path.resolve().name}.{side}px-{extractor}-{reference_identity(path)}.npz"
    beside, cached = path.resolve().with_name(name), cache_folder() / "references" / name
    if beside.exists() or (not cached.exists() and os.access(beside.parent, os.W_OK)):
        return beside
    return cached
