"""Latents as others write them: fast-DiT's and the public FCDM's files, and zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

IMAGES, CLASSES = 30, 4
NAMES = [f"{rank}-{step}" for rank in range(2) for step in range(15)]
"""Of files, as two processes of the public FCDM write them, in the order of their numbers."""


def latents(dtype: str = "float32", channels: int = 4) -> NDArray[np.floating]:
    found = np.random.default_rng(0).standard_normal((IMAGES, channels, 8, 8)).astype(dtype)
    found[0, 0, 0, 0] = -0.0
    return found


LABELS = np.arange(IMAGES) % CLASSES


def write_files(root: str, values: NDArray[np.floating], names: list[str] = NAMES) -> None:
    """As fast-DiT and the public FCDM: one .npy for each latent (1, C, h, w), and one for each label (1,)."""
    for kind, arrays in (("features", values[:, None]), ("labels", LABELS[:, None])):
        folder = Path(root, f"imagenet256_{kind}")
        folder.mkdir(parents=True)
        for name, array in zip(names, arrays, strict=True):
            np.save(folder / f"{name}.npy", array)


def write_zarr(root: str, values: NDArray[np.floating], version: int) -> None:
    """As the public FCDM reads it: latents (N, 1, C, h, w) and labels (N, 1)."""
    group = zarr.open_group(root, mode="w", zarr_format=version)
    for name, array in (("latents", values[:, None]), ("labels", LABELS[:, None])):
        made = group.create_array(name, shape=array.shape, chunks=(7, *array.shape[1:]), dtype=array.dtype)
        made[:] = array
