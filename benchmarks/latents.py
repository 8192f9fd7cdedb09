"""Random access to a store of latents against one .npy file per image, and against zarr where it is installed.

    python benchmarks/latents.py [images=4096] [side=32] [batch=256] [batches=8] [rounds=5] [folder=/tmp]

The same numbers (mean and standard deviation, float16) in each; the same random batches, with a random flip per item;
one thread. One file per image and flip: nothing is read that is not asked for. zarr 3: a chunk (a file) per image
and flip, no compression, one item per call: sharded, or with a whole batch in one oindex or vindex call, it is 2 to 4
times slower here. What is warm and what cold: store_access.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.store_access import compare, run, write_store
from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import MANIFEST

SHARD = 1024
Read = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float16]]


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
    compare(folder, formats, asked, rounds, "items")
    return 0


def make_store(folder: Path, data: NDArray[np.float16]) -> Callable[[], Read]:
    shards = write_store(folder, data, SHARD)
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


if __name__ == "__main__":
    sizes = {"images": 4096, "side": 32, "batch": 256, "batches": 8, "rounds": 5}
    sys.exit(run(sys.argv[1:], sizes, measure))
