"""Small data sets of pixels: pictures with a test split of their own, as IDX files, as CIFAR's parquet, as folders."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.tiny_images import encoded, picture

CLASSES = ("airplane", "automobile", "bird")


def pictures(count: int, side: int, first: int = 0, grey: bool = False) -> NDArray[np.uint8]:
    """(count, side, side, 3), or without the last for grey ones."""
    found = np.stack([picture(first + number, side, side) for number in range(count)])
    return found[..., 0] if grey else found


def of_classes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images, those of class 0, 1, 2, 0, 1, ... the brighter the higher: a small network can learn that."""
    return images // 2 + 60 * _labels(len(images)).reshape(-1, *[1] * (images.ndim - 1))


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_folder(folder: Path, train: int = 40, test: int = 12, side: int = 8, packed: bool = True) -> Path:
    """The four files of an MNIST, of three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, first in (("train", train, 0), ("t10k", test, 1000)):
        arrays = {"images-idx3": of_classes(pictures(count, side, first, grey=True)), "labels-idx1": _labels(count)}
        for name, array in arrays.items():
            data = idx_bytes(array)
            path = folder / f"{split}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


def parquet_folder(folder: Path, train: int = 60, test: int = 12, side: int = 32) -> Path:
    """CIFAR-10 as the hub has it: `plain_text/{train,test}-00000-of-00001.parquet`, columns img and label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "plain_text").mkdir(parents=True)
    described = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        files = [encoded(Image.fromarray(image), "PNG") for image in of_classes(pictures(count, side, first))]
        table = pa.table({"img": [{"bytes": data, "path": None} for data in files], "label": _labels(count).tolist()})
        table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
        pq.write_table(table, folder / f"plain_text/{split}-00000-of-00001.parquet")
    return folder


def image_folder(folder: Path, count: int, side: int, first: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """PNGs in class folders; without classes in one folder."""
    for number, image in enumerate(pictures(count, side, first)):
        path = folder / (classes[number % len(classes)] if classes else "") / f"{first + number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(image), "PNG"))
    return folder


def _labels(count: int) -> NDArray[np.uint8]:
    return (np.arange(count) % len(CLASSES)).astype(np.uint8)


def pixel_store(
    folder: Path, images: int = 40, side: int = 8, channels: int = 3, classes: int = 3, heldout: int = 6, aside: int = 6
) -> Path:
    """A store of pixels as `python -m fcdm.prepare images` leaves it, in shards of 16; the last images are held out.

    Every pixel of image number n has the value n, but for the left column, which is n + 100.
    """
    from fcdm.data.manifest import ASIDE, HELDOUT, LABELS, MANIFEST
    from fcdm.data.shards import write_npy

    (folder / "shards").mkdir(parents=True)
    data = np.broadcast_to(
        np.arange(images, dtype=np.uint8)[:, None, None, None], (images, channels, side, side)
    ).copy()
    data[..., 0] += 100
    shards = []
    for start in range(0, images, 16):
        part, file = data[start : start + 16], f"shards/{start // 16:05d}.npy"
        shards.append({"file": file, "images": len(part), "sha256": write_npy(folder / file, part)})
    labels = np.arange(images, dtype=np.int32) % classes
    places = np.arange(images)
    write_npy(folder / LABELS, labels)
    write_npy(folder / HELDOUT, places >= images - heldout)
    write_npy(folder / ASIDE, (places >= images - heldout - aside) & (places < images - heldout))
    manifest = {
        "format": 1, "kind": "pixels", "images": images, "resolution": side, "side": side, "channels": channels,
        "pad": None, "source": {"checksum": "", "images": images, "left_out": 0},
        "heldout": {"fraction": None, "images": heldout}, "aside": {"fraction": 0.1, "images": aside}, "files": {},
        "classes": [str(number) for number in range(classes)], "shards": shards,
        "class_counts": np.bincount(labels, minlength=classes).tolist(),
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
