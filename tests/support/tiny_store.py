"""A store of latents as `python -m fcdm.prepare latents` leaves it, of random numbers, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fcdm.data.manifest import HELDOUT, LABELS, MANIFEST
from fcdm.data.shards import write_npy


def tiny_store(
    folder: Path, images: int = 40, side: int = 8, classes: int = 3, heldout: int = 3, channels: int = 4
) -> Path:
    """Latents of channels x side x side in shards of 8, of images at 8 times that side; the last ones are held out."""
    (folder / "shards").mkdir(parents=True)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((images, 2, 2, channels, side, side)).astype(np.float16)
    shards = []
    for start in range(0, images, 8):
        part, file = data[start : start + 8], f"shards/{start // 8:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    labels = np.arange(images, dtype=np.int32) % classes
    write_npy(folder / LABELS, labels)
    write_npy(folder / HELDOUT, np.arange(images) >= images - heldout)
    manifest = {
        "format": 1,
        "images": images,
        "channels": channels,
        "side": side,
        "resolution": 8 * side,
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
        "files": {},
        "vae": {"weights_sha256": ""},
        "classes": [str(number) for number in range(classes)],
        "class_counts": np.bincount(labels, minlength=classes).tolist(),
        "shards": shards,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
