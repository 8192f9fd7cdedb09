"""Where what was made of a store of pixels is kept, so that it is made once. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from fcdm.hashing import cache_folder

FEATURES = "features"
"""In a store's folder: features of its images, and the classifier."""


def kept_file(store: Path, checksum: str, name: str) -> Path:
    """The file of that name in the store's folder or in the cache folder; where neither has it, where it can be made.

    checksum: the store's. Of a store that cannot be written the cache folder's.
    """
    own, cached = store / FEATURES, cache_folder() / "stores" / checksum[:16]
    for folder in (own, cached):
        if (folder / name).exists():
            return folder / name
    writable = os.access(own if own.is_dir() else store, os.W_OK) and not own.is_file()
    return (own if writable else cached) / name
