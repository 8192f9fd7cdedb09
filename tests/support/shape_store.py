"""A store of pixels as `python -m fcdm.prepare images` leaves it, of pictures that a small network can read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.data.manifest import ASIDE, HELDOUT, LABELS, MANIFEST
from fcdm.data.shards import write_npy

SHARD = 64


def shapes(labels: NDArray[np.int32], side: int = 16, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """(n, channels, side, side): bars that lie (0), stand (1), or a block (2), anywhere above the middle, in noise.

    So a class is told by its shape alone, and how an image was turned by where it lies.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (len(labels), channels, side, side))
    unit = side // 8
    for image, label in zip(images, labels, strict=True):
        height, width = [(unit, 4 * unit), (3 * unit, unit), (2 * unit, 2 * unit)][label % 3]
        top, left = rng.integers(0, side // 2 - height), rng.integers(0, side - width)
        image[:, top : top + height, left : left + width] += 160
    return images.astype(np.uint8)


def tiny_pixels(
    folder: Path,
    images: int = 300,
    side: int = 16,
    channels: int = 1,
    classes: int = 3,
    heldout: int = 60,
    aside: int = 120,
    shuffled_labels: bool = False,
    pixels: NDArray[np.uint8] | None = None,
) -> Path:
    """The first of them are trained on, the last `heldout` held out, the `aside` before those set aside.

    shuffled_labels: nothing can be learned of them. pixels: instead of `shapes`.
    """
    (folder / "shards").mkdir(parents=True)
    labels = np.arange(images, dtype=np.int32) % classes
    data = shapes(labels, side, channels) if pixels is None else pixels
    if shuffled_labels:
        labels = np.random.default_rng(1).permutation(labels)
    shards = []
    for start in range(0, images, SHARD):
        part, file = data[start : start + SHARD], f"shards/{start // SHARD:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    place = np.arange(images)
    write_npy(folder / LABELS, labels)
    write_npy(folder / HELDOUT, place >= images - heldout)
    write_npy(folder / ASIDE, (place >= images - heldout - aside) & (place < images - heldout))
    manifest = {
        "format": 1,
        "kind": "pixels",
        "images": images,
        "channels": channels,
        "side": side,
        "resolution": side,
        "rule": {"converts": False, "pad": None, "upscale": False},
        "files": {},
        "aside": {"fraction": aside / images, "images": aside},
        "classes": [str(number) for number in range(classes)],
        "class_counts": np.bincount(labels, minlength=classes).tolist(),
        "shards": shards,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
