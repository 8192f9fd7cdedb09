"""Random access to a store of latents against one .npy file per image, and against zarr where it is installed.

    python benchmarks/latents.py [images=4096] [side=32] [batch=256] [batches=8] [rounds=5] [folder=/tmp]

The same numbers (mean and standard deviation, float16) in each; the same random batches, with a random flip per item;
one thread. One file per image and flip: nothing is read that is not asked for. zarr 3: a chunk (a file) per image
and flip, no compression, one item per call: sharded, or with a whole batch in one oindex or vindex call, it is 2 to 4
times slower here. Rounds alternate; the figures are medians.

- warm: every file is in the page cache;
- cold: each file is dropped from the page cache before each round (posix_fadvise; names and inodes stay cached, which
  favours the small files), and opened anew within the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import HELDOUT, LABELS, MANIFEST
from fcdm.data.shards import write_npy

SHARD = 1024
Read = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float16]]


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    parent = given.pop("folder", None)
    sizes = {"images": 4096, "side": 32, "batch": 256, "batches": 8, "rounds": 5}
    if unknown := set(given) - set(sizes):
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sizes)}, folder", file=sys.stderr)
        return 1
    sizes |= {key: int(value) for key, value in given.items()}
    folder = Path(tempfile.mkdtemp(prefix="fcdm-latents-", dir=parent))
    try:
        return measure(folder, **sizes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, images: int, side: int, batch: int, batches: int, rounds: int) -> int:
    print(f"{images:,} images of 4 x {side} x {side}, {batches} batches of {batch}, {rounds} rounds, in {folder}")
    rng = np.random.default_rng(0)
    data = rng.standard_normal((images, 2, 2, 4, side, side), dtype=np.float32).astype(np.float16)
    formats = {"store": make_store(folder / "store", data), "files": make_files(folder / "files", data)}
    with contextlib.suppress(ImportError):
        formats["zarr"] = make_zarr(folder / "zarr", data)
    if "zarr" not in formats:
        print("zarr is not installed: left out (pip install zarr)")
    asked = [(rng.integers(0, images, batch), rng.random(batch) < 0.5) for _ in range(batches)]
    for open_it in formats.values():  # once unmeasured: right, and warm
        found = open_it()(*asked[0])
        assert np.array_equal(found, data[asked[0][0], asked[0][1].astype(int)])
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
                        read(*items)
                began = time.perf_counter()
                if cache == "cold":
                    read = open_it()
                for items in asked:
                    read(*items)
                speeds.setdefault((cache, name), []).append(batch * batches / (time.perf_counter() - began))
    median = {key: statistics.median(values) for key, values in speeds.items()}
    for cache in ("warm", "cold"):
        for name in formats:
            ratio = f"   the store is {median[cache, 'store'] / median[cache, name]:.1f} x as fast"
            print(f"{cache} {name:5}: {median[cache, name]:9,.0f} items/s{ratio if name != 'store' else ''}")
    return 0


def make_store(folder: Path, data: NDArray[np.float16]) -> Callable[[], Read]:
    (folder / "shards").mkdir(parents=True)
    shards = []
    for number, start in enumerate(range(0, len(data), SHARD)):
        part, file = data[start : start + SHARD], f"shards/{number:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    write_npy(folder / LABELS, np.zeros(len(data), dtype=np.int32))
    write_npy(folder / HELDOUT, np.zeros(len(data), dtype=np.bool_))
    manifest: dict[str, Any] = {"format": 1, "images": len(data), "channels": 4, "side": data.shape[-1]}
    manifest |= {"resolution": 8 * data.shape[-1], "scaling_factor": 0.18215, "shift_factor": 0.0, "files": {}}
    manifest |= {"vae": {"weights_sha256": ""}, "classes": ["0"], "class_counts": [len(data)], "shards": shards}
    (folder / MANIFEST).write_text(json.dumps(manifest))

    def open_it() -> Read:
        store = LatentsStore(folder)

        return store.read

    return open_it


def make_files(folder: Path, data: NDArray[np.float16]) -> Callable[[], Read]:
    folder.mkdir()
    for index, row in enumerate(data):
        for flip in (0, 1):
            np.save(folder / f"{index}-{flip}.npy", row[flip])

    def read(indices: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> NDArray[np.float16]:
        pairs = zip(indices.tolist(), mirrored.tolist(), strict=True)
        return np.stack([np.load(f"{folder}/{index}-{int(flip)}.npy") for index, flip in pairs])

    return lambda: read


def make_zarr(folder: Path, data: NDArray[np.float16]) -> Callable[[], Read]:
    import zarr

    chunk = (1, 1, *data.shape[2:])
    made = zarr.create_array(str(folder), shape=data.shape, dtype=data.dtype, chunks=chunk, compressors=None)
    made[:] = data

    def open_it() -> Read:
        array = zarr.open_array(str(folder), mode="r")

        def read(indices: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> NDArray[np.float16]:
            pairs = zip(indices.tolist(), mirrored.tolist(), strict=True)
            return np.stack([np.asarray(array[index, int(flip)]) for index, flip in pairs])

        return read

    return open_it


def drop(folder: Path) -> None:
    """The files' pages out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
