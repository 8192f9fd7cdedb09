"""What a `reference=` is: statistics in ADM's format, or images to make them of. Torch-free."""

from __future__ import annotations

import os
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.errors import UserError
from fcdm.hashing import cache_folder, known_sha256
from fcdm.images.listing import content_sha256, samples_within

if TYPE_CHECKING:
    from fcdm.images.image_stream import Images

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


def statistics_extractor(path: Path) -> str | None:
    """The id of the extractor that a file of statistics is of; None: it does not say, as ADM's, which are Inception's.

    Raises UserError.
    """
    import numpy as np

    from fcdm.images.row_stream import readable_file

    with readable_file(path), np.load(path, allow_pickle=False) as arrays:
        return str(arrays["extractor"]) if "extractor" in arrays else None


def refuse_other_statistics(path: Path, features: str, identity: Callable[[], str]) -> None:
    """Raise UserError where the file's statistics are of other features. identity: of the extractor `features`."""
    if not is_statistics(path):
        return
    found = statistics_extractor(path)
    other = features != "inception" if found is None else found.split("@")[0] != identity().split("@")[0]
    if other:
        raise UserError(
            f"{path} holds statistics of {found or 'Inception'}, and not of evaluation.features={features}: say "
            "evaluation.reference=<a folder, .npz or .npy of the real images>, of which its own are made once, or what "
            f"`python -m fcdm.prepare reference features={features} images=...` makes"
        )


def reference_images(path: Path, side: int) -> Images:
    """The images that a reference of `side` pixels is to be made of. Raises UserError where they cannot be."""
    from fcdm.images.image_stream import Unsaid
    from fcdm.images.open_images import open_images

    try:
        return open_images(path, real=True)
    except Unsaid as error:
        words = [f"images={path}", f"resolution={side}", *error.words]
        raise UserError(
            f"{error.what}: `python -m fcdm.prepare reference {shlex.join(words)}` or the like makes a reference of it"
        ) from None


def reference_identity(path: Path, side: int) -> str:
    """What a protocol says of a reference: 8 hex digits of the file's sha256, or `images-` and 8 of their content's.

    side: of the samples. Of images no more than names, headers and bytes are read. Raises UserError where they cannot
    be a reference.
    """
    if is_statistics(path):
        return known_sha256(path)[:8]
    reference_images(path, side)  # refused now, and not after a training
    return f"images-{content_sha256(samples_within(path))[:8]}"


def statistics_of_images(path: Path, side: int, extractor: str) -> Path:
    """Where the statistics of the images at `path`, brought to `side` pixels, are kept: beside them, else in the cache.

    The name holds the images' identity, so that other images have another file.
    """
    name = f"{path.resolve().name}.{side}px-{extractor}-{reference_identity(path, side)}.npz"
    beside, cached = path.resolve().with_name(name), cache_folder() / "references" / name
    if beside.exists() or (not cached.exists() and os.access(beside.parent, os.W_OK)):
        return beside
    return cached
