"""Random access to a store of pixels against one PNG file per image.

    python benchmarks/pixel_store.py [images=8192] [side=32] [batch=256] [batches=8] [rounds=5] [folder=/tmp]

The same RGB images in each; the same random batches; one thread; both end with one array of bytes per batch. The
pictures are smooth with some noise, so that a PNG has a photograph's size. Rounds alternate; the figures are medians.

- warm: every file is in the page cache;
- cold: each file is dropped from the page cache before each round (posix_fadvise; names and inodes stay cached, which
  favours the small files), and opened anew within the time.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcdm.data.manifest import HELDOUT, LABELS, MANIFEST
from fcdm.data.pixel_store import PixelStore
from fcdm.data.shards import write_npy

SHARD = 4096
Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    parent = given.pop("folder", None)
    sizes = {"images": 8192, "side": 32, "batch": 256, "batches": 8, "rounds": 5}
    if unknown := set(given) - set(sizes):
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sizes)}, folder", file=sys.stderr)
        return 1
    sizes |= {key: int(value) for key, value in given.items()}
    folder = Path(tempfile.mkdtemp(prefix="fcdm-pixels-", dir=parent))
    try:
        return measure(folder, **sizes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    os.sync()
    speeds: dict[tuple[str, str], list[float]] = {}
    for cache in ("warm", "cold"):
        for _ in range(rounds):
            for name, open_it in formats.items():
                read = open_it()
                if cache == "cold":
                    del read  # a mapped page is not dropped
                    drop(folder / name)
                else:
                    for items in asked:
                        read(items)
                began = time.perf_counter()
                if cache == "cold":
                    read = open_it()
                for items in asked:
                    read(items)
                speeds.setdefault((cache, name), []).append(batch * batches / (time.perf_counter() - began))
    median = {key: statistics.median(values) for key, values in speeds.items()}
    for cache in ("warm", "cold"):
        for name in formats:
            ratio = f"   the store is {median[cache, 'store'] / median[cache, name]:.1f} x as fast"
            print(f"{cache} {name:5}: {median[cache, name]:11,.0f} images/s{ratio if name != 'store' else ''}")
    return 0


def pictures(rng: np.random.Generator, images: int, side: int) -> NDArray[np.uint8]:
    """(images, side, side, 3): waves, and noise of a camera's strength."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = rng.uniform(1, 12, (images, 2, 1, 1, 3)), rng.uniform(0, 6.3, (images, 1, 1, 3))
    smooth = np.sin(waves[0][:, 0] * x[..., None] + waves[0][:, 1] * y[..., None] + waves[1])
    noise = rng.normal(0, 4, smooth.shape)
    return np.clip(128 + 90 * smooth + noise, 0, 255).astype(np.uint8)


def make_store(folder: Path, data: NDArray[np.uint8]) -> Callable[[], Read]:
    (folder / "shards").mkdir(parents=True)
    rows = data.transpose(0, 3, 1, 2)
    shards = []
    for number, start in enumerate(range(0, len(rows), SHARD)):
        part, file = rows[start : start + SHARD], f"shards/{number:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    write_npy(folder / LABELS, np.zeros(len(rows), dtype=np.int32))
    write_npy(folder / HELDOUT, np.zeros(len(rows), dtype=np.bool_))
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


def drop(folder: Path) -> None:
    """The files' pages out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
