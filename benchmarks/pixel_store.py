"""Random access to a store of pixels against one PNG file per image.

    python benchmarks/pixel_store.py [images=8192] [side=32] [batch=256] [batches=8] [rounds=5] [folder=/tmp]

The same RGB images in each; the same random batches; one thread; both end with one array of bytes per batch. The
pictures are smooth with some noise, so that a PNG has a photograph's size. What is warm and what cold:
store_access.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.store_access import compare, run, write_store
from fcdm.data.manifest import MANIFEST
from fcdm.data.pixel_store import PixelStore

SHARD = 4096
Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def measure(folder: Path, images: int, side: int, batch: int, batches: int, rounds: int) -> int:
    rng = np.random.default_rng(0)
    data = pictures(rng, images, side)
    formats = {"store": make_store(folder / "store", data), "files": make_files(folder / "files", data)}
    size = sum(path.stat().st_size for path in (folder / "files").iterdir()) / images
    print(f"{images:,} RGB images of {side} x {side} ({size:,.0f} bytes a PNG), {batches} batches of {batch}, ", end="")
    print(f"{rounds} rounds")
    asked = [rng.integers(0, images, batch) for _ in range(batches)]
    for open_it in formats.values():  # once unmeasured: right, and warm
        assert np.array_equal(open_it()(asked[0]), data[asked[0]].transpose(0, 3, 1, 2))
    compare(folder, formats, [(items,) for items in asked], rounds, "images")
    return 0


def pictures(rng: np.random.Generator, images: int, side: int) -> NDArray[np.uint8]:
    """(images, side, side, 3): waves, and noise of a camera's strength."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = rng.uniform(1, 12, (images, 2, 1, 1, 3)), rng.uniform(0, 6.3, (images, 1, 1, 3))
    smooth = np.sin(waves[0][:, 0] * x[..., None] + waves[0][:, 1] * y[..., None] + waves[1])
    noise = rng.normal(0, 4, smooth.shape)
    return np.clip(128 + 90 * smooth + noise, 0, 255).astype(np.uint8)


def make_store(folder: Path, data: NDArray[np.uint8]) -> Callable[[], Read]:
    rows = data.transpose(0, 3, 1, 2)
    shards = write_store(folder, rows, SHARD)
    side = data.shape[1]
    manifest = {
        "format": 1, "kind": "pixels", "images": len(rows), "resolution": side, "side": side, "channels": 3,
        "pad": None, "files": {}, "classes": ["0"], "class_counts": [len(rows)], "shards": shards,
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))

    def open_it() -> Read:
        store = PixelStore(folder)
        return store.read

    return open_it


def make_files(folder: Path, data: NDArray[np.uint8]) -> Callable[[], Read]:
    folder.mkdir()
    for index, image in enumerate(data):
        Image.fromarray(image).save(folder / f"{index}.png")

    def one(index: int) -> NDArray[np.uint8]:
        with Image.open(f"{folder}/{index}.png") as image:
            return np.asarray(image).transpose(2, 0, 1)

    return lambda: lambda indices: np.stack([one(index) for index in indices.tolist()])


if __name__ == "__main__":
    sizes = {"images": 8192, "side": 32, "batch": 256, "batches": 8, "rounds": 5}
    sys.exit(run(sys.argv[1:], sizes, measure))
