"""Images in IDX files, as MNIST and its kin come: `train-images-idx3-ubyte.gz`, its labels, and a `t10k` pair to test.

IDX is big-endian: two zero bytes, the type of a number (8: a byte), the count of sides; the sides, 4 bytes each; then
the numbers. Images are (count, rows, columns), labels (count,).
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror
from fcdm.data.image_folders import NONE
from fcdm.data.labelled_images import UNLABELLED, ImageSource, some
from fcdm.errors import UserError
from fcdm.formatting import plural

_IMAGES = re.compile(r"(?P<before>.*?)images(?P<dot>[-.]?)idx3(?P<after>[-.]?ubyte(?:\.gz)?)", re.IGNORECASE)
_TESTS = ("t10k", "test", "val")
GZIP = b"\x1f\x8b"
BYTE = 8
"""IDX's number for the type uint8."""


@dataclass(frozen=True)
class IdxFiles:
    """Files of images in a folder, by names alone."""

    train: str
    test: str | None
    """Of the source's own test split; null: it is not there."""


def is_idx(path: Path) -> bool:
    """Whether a file is called as IDX files are; what is in it, whoever reads it says."""
    return re.search(r"idx\d", path.name, re.IGNORECASE) is not None


def idx_files(root: Path, files: Sequence[str]) -> IdxFiles | None:
    """The IDX files of images among the `files` below `root`; None: there are none.

    Raises UserError where names do not tell which are to train on.
    """
    images = sorted(name for name in files if _IMAGES.fullmatch(name.rpartition("/")[2]))
    images = [name for name in images if not (name.endswith(".gz") and name[:-3] in images)]  # unpacked beside itself
    tests = [name for name in images if _is_test(name)]
    trains = [name for name in images if not _is_test(name)]
    if not images:
        return None
    if not trains:
        raise UserError(
            f"images={root} holds only a test split ({some(images)}): put the images to train on beside it "
            f"(train-images-idx3-ubyte and their labels), or say images={root / images[0]} to train on these"
        )
    if len(trains) > 1 or len(tests) > 1:
        several = f"IDX files of several data sets ({some(images)})"
        raise UserError(f"images={root} holds {several}: say one of them, as images={root / trains[0]}")
    return IdxFiles(trains[0], tests[0] if tests else None)


def _is_test(name: str) -> bool:
    return any(word in _TESTS for word in re.split(r"[^a-z0-9]+", name.rpartition("/")[2].lower()))


def idx_source(root: Path, name: str, labels: str | None) -> ImageSource:
    """The images of the IDX file `name` below `root`, with the labels of the file beside it, found by its name.

    labels: `none`: one class; null: those. Raises UserError, in one line, for files that are not what they are called.
    """
    path = root / name
    if labels not in (None, NONE):
        raise UserError(
            f"images={path}: labels={labels} is for image files; the labels of IDX files lie beside them, and "
            "labels=none takes the images without: leave it away"
        )
    pixels = _read(path, 3, "images")
    if not pixels.size:
        raise UserError(f"{path} holds no image: its sides are {' x '.join(map(str, pixels.shape))}")
    numbers = None if labels else _labels(path, len(pixels))

    def read(index: int) -> NDArray[np.uint8]:
        return pixels[index, :, :, None]

    count, height, width = pixels.shape
    notes = [
        f"{path}: {plural(count, 'image')} of {width} x {height}",
        *(["no labels (labels=none)"] if labels else []),
    ]
    files = [name] if numbers is None else [name, labels_file(path).relative_to(root).as_posix()]
    return ImageSource(
        "idx",
        root,
        [f"{name}:{number}" for number in range(count)],
        np.zeros(count, np.int32) if numbers is None else numbers.astype(np.int32),
        [UNLABELLED] if numbers is None else [str(label) for label in range(int(numbers.max()) + 1)],
        read,
        tuple(notes),
        tuple(files),
    )


def labels_file(images: Path) -> Path:
    """The file of labels that belongs to one of images, packed or not. Raises UserError where there is none."""
    found = _IMAGES.fullmatch(images.name)
    if found is None:
        raise UserError(
            f"{images} is not called as IDX files of images are (train-images-idx3-ubyte.gz), so nothing tells which "
            "file has its labels: rename both, or say labels=none to take the images without"
        )
    name = f"{found['before']}labels{found['dot']}idx1{found['after']}"
    plain = images.with_name(name.removesuffix(".gz"))
    for path in (images.with_name(name), plain, plain.with_name(f"{plain.name}.gz")):
        if path.exists():
            return path
    raise UserError(
        f"the labels of {images} are missing: wanted is {images.with_name(name)} (labels=none takes the images without)"
    )


def _labels(images: Path, count: int) -> NDArray[np.uint8]:
    path = labels_file(images)
    labels = _read(path, 1, "labels")
    if len(labels) != count:
        raise UserError(f"{path} has {len(labels):,} labels and {images} {count:,} images: they do not belong together")
    return labels


def _read(path: Path, sides: int, what: str) -> NDArray[np.uint8]:
    """The numbers of an IDX file of bytes with so many sides. Raises UserError."""
    try:
        data = path.read_bytes()
        if data[:2] == GZIP:
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error}): copy it again") from None
    except OSError as error:
        raise describe_oserror(error, path, "reading") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        called = ", nor is it packed by gzip, as its name says" if path.suffix == ".gz" else ""
        raise UserError(f"{path} is no IDX file (it does not begin with two zero bytes){called}: copy it again")
    kind, found = data[2], data[3]
    if (kind, found) != (BYTE, sides):
        other = {(BYTE, 1): "labels", (BYTE, 3): "images"}.get((kind, found))
        is_it = f"holds {other}, not {what}: were two files swapped?" if other else f"is no IDX file of {what}."
        magic = f"0x0000{kind:02x}{found:02x}, not 0x0000{BYTE:02x}{sides:02x}"
        raise UserError(f"{path} {is_it} Its magic number is {magic}")
    start = 4 + 4 * sides
    shape = tuple(int(side) for side in np.frombuffer(data[4:start], ">u4")) if len(data) >= start else (0,) * sides
    expected = start + math.prod(shape)
    if len(data) < start or len(data) != expected:
        cut = "cut short" if len(data) < max(start, expected) else "longer than it should be"
        raise UserError(f"{path} is {cut}: {len(data):,} bytes, and its header asks for {expected:,}: copy it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
