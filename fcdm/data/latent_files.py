"""Latents that others encoded, as they lie on a disk: one .npy for each image, one .npz or .npy, or zarr. Torch-free.

Names and labels are read at once, latents as they are asked for.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror
from fcdm.data.image_folders import NONE
from fcdm.data.label_files import numbered, read_labels
from fcdm.data.labelled_images import LARGEST, UNLABELLED, ImageSource, some
from fcdm.data.zarr_arrays import is_zarr, open_zarr
from fcdm.errors import UserError
from fcdm.images.arrays import LABELS
from fcdm.images.arrays import read_labels as read_labels_of_npz
from fcdm.images.listing import files_below
from fcdm.images.row_stream import is_npy, open_rows, readable_file
from fcdm.paths import place

BLOCK, BLOCKS = 64, 4
"""Latents of one array read at a time, and how many such blocks are kept: threads ask for them nearly in order."""
READERS = 16
"""Threads that read label files."""


@dataclass(frozen=True)
class LatentFiles:
    """Latents by number, labelled, and the first of them as it lies there."""

    source: ImageSource
    """Its `read` gives a file, or the latent as it is in an array."""
    first: NDArray[Any]


def open_latents(root: Path, labels: str | None, classes: int | None) -> LatentFiles:
    """The latents at `root`.

    labels: a folder of .npy files of the same names, an .npy or zarr array in the latents' order, a .csv, .tsv or .json
    of names and labels, `none` (one class), or null: what lies with the latents. classes: how many there are; null: up
    to the largest label. Raises UserError.
    """
    if is_zarr(root):
        return _of_rows(root, "zarr", *open_zarr(root, labels), classes)
    if root.is_file():
        stream, key = open_rows(root)
        if stream.header.by_columns:
            raise UserError(
                f"latents={root} is stored by columns: latents are stored one by one, so save "
                "numpy.ascontiguousarray(latents)"
            )
        found = read_labels_of_npz(root) if labels is None and not is_npy(root) else _labels_of_array(root, labels)
        if found is None:
            where = f"no `{LABELS}` beside `{key}`" if key else "a .npy holds none"
            raise UserError(f"latents={root} has no labels ({where}): say labels=FILE.npy, or labels=none (one class)")
        return _of_rows(root, root.suffix[1:], stream.rows, stream.header.shape, stream.header.dtype, found, classes)
    if root.is_dir():
        return _of_folder(root, labels, classes)
    raise UserError(f"latents={root}: there is no such file or folder")


def _of_rows(
    root: Path,
    kind: str,
    rows: Callable[[int, int], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    labels: NDArray[Any] | str,
    classes: int | None,
) -> LatentFiles:
    """One array, of which `rows` reads a stretch. labels: numbers, or `none`."""
    if len(shape) < 4 or shape[0] == 0:
        raise UserError(f"latents={root} is {dtype} of shape {shape}: (images, channels, height, width) is wanted")
    numbers = None if isinstance(labels, str) else _numbers(f"labels of {root}", labels, shape[0])
    read = _in_blocks(rows, shape[0])
    names = [f"{root.name}:{number}" for number in range(shape[0])]
    files = (root.name,) if root.is_file() else _all_files(root)
    source = _source(kind, root.parent if root.is_file() else root, names, numbers, classes, read, files)
    return LatentFiles(source, read(0))


def _in_blocks(rows: Callable[[int, int], NDArray[Any]], count: int) -> Callable[[int], NDArray[Any]]:
    lock = threading.Lock()
    blocks: dict[int, NDArray[Any]] = {}

    def read(index: int) -> NDArray[Any]:
        number, at = divmod(index, BLOCK)
        with lock:
            if number not in blocks:
                for old in sorted(blocks)[: len(blocks) - BLOCKS + 1]:
                    del blocks[old]
                blocks[number] = rows(number * BLOCK, min((number + 1) * BLOCK, count))
            found: NDArray[Any] = blocks[number][at]
            return found

    return read


def _of_folder(root: Path, labels: str | None, classes: int | None) -> LatentFiles:
    if labels is None:
        root, labels = _pair(root)
    names = _npy_names(root, "latents")
    numbers: NDArray[np.int64] | None = None
    if labels != NONE:
        given = place(str(labels))
        if given.is_dir():
            numbers = _label_files(given, root, names)
        elif given.suffix == ".npy":
            numbers = _numbers(f"labels={given}", _array(given), len(names))
        else:
            numbers = _named_labels(given, root, names)
    source = _source("latents", root, names, numbers, classes, lambda index: root / names[index], None)
    return LatentFiles(source, _array(root / names[0]))


def _pair(root: Path) -> tuple[Path, str]:
    """The folders `..._features` and `..._labels` in `root`, as fast-DiT makes them. Raises UserError."""
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    features, labels = ([path for path in inside if path.name.endswith(end)] for end in ("features", "labels"))
    if len(features) == len(labels) == 1:
        return features[0], str(labels[0])
    raise UserError(
        f"latents={root} does not say where the labels are: say labels=<the folder with a .npy for each>, "
        "labels=FILE.csv, or labels=none (one class)"
    )


def _npy_names(root: Path, what: str) -> list[str]:
    """.npy files below `root`, by the numbers in their names: `9.npy` before `10.npy`, `1-0.npy` after `0-7.npy`."""
    try:
        names = [name for name in files_below(root) if name.endswith(".npy")]
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), f"listing the {what}") from error
    if not names:
        raise UserError(f"{what}={root} has no .npy files: one for each image is wanted, or an .npz, .npy or zarr")
    return sorted(names, key=_by_numbers)


def _by_numbers(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name)], name


def _label_files(folder: Path, root: Path, names: list[str]) -> NDArray[np.int64]:
    """One .npy for each latent, of the same name."""
    there = set(_npy_names(folder, "labels"))
    if absent := [name for name in names if name not in there]:
        raise UserError(f"labels={folder} lacks {len(absent):,} of the {len(names):,} of {root}: {some(absent)}")
    if more := sorted(there.difference(names), key=_by_numbers):
        raise UserError(f"labels={folder} has {len(more):,} that are of no latent in {root}: {some(more)}")

    def label(name: str) -> Any:
        found = _array(folder / name)
        if found.size != 1:
            raise UserError(f"{folder / name} holds {found.size} numbers: the label of one image is wanted")
        return found.reshape(())[()]

    with ThreadPoolExecutor(READERS, "labels") as pool:
        found = list(pool.map(label, names))
    return _numbers(f"labels={folder}", np.array(found), len(names), names)


def _named_labels(path: Path, root: Path, names: list[str]) -> NDArray[np.int64]:
    """Of a .csv, .tsv or .json that names the latents' files."""
    given = read_labels(path, root)
    if given is None:
        raise UserError(f"{path} says that there are no labels: say labels=none (one class)")
    if absent := [name for name in names if name not in given]:
        raise UserError(f"{path} gives no label to {len(absent):,} of the {len(names):,} of {root}: {some(absent)}")
    numbers, _ = numbered({name: given[name] for name in names}, path)
    return np.array([numbers[name] for name in names], np.int64)


def _labels_of_array(root: Path, labels: str | None) -> NDArray[Any] | str | None:
    """`none`, or the numbers of labels=FILE.npy."""
    if labels in (None, NONE):
        return labels
    path = place(str(labels))
    if path.suffix != ".npy" or not path.is_file():
        raise UserError(f"labels={labels}: of latents={root} a .npy of numbers is wanted, in its order, or labels=none")
    return _array(path)


def _array(path: Path) -> NDArray[Any]:
    """A .npy, whole. Raises UserError."""
    with readable_file(path):
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    return found


def _numbers(what: str, labels: NDArray[Any], count: int, names: list[str] | None = None) -> NDArray[np.int64]:
    """The labels (count,) of latents. Raises UserError, naming the first that cannot be."""
    flat = labels.reshape(len(labels), -1) if labels.ndim else labels.reshape(1, 1)
    if flat.shape != (count, 1):
        raise UserError(f"{what}: shape {labels.shape}, and there are {count:,} latents: one number for each is wanted")
    found = flat[:, 0]
    if found.dtype.kind not in "iu":
        raise UserError(f"{what}: {found.dtype}, and class numbers are integers from 0")
    wrong = np.flatnonzero((found < 0) | (found >= LARGEST))
    if len(wrong):
        raise UserError(f"{what}: {_at(names, wrong[0])} has the label {found[wrong[0]]}: class numbers count from 0")
    return found.astype(np.int64)


def _source(
    kind: str,
    root: Path,
    names: list[str],
    numbers: NDArray[np.int64] | None,
    classes: int | None,
    read: Callable[[int], Any],
    files: tuple[str, ...] | None,
) -> ImageSource:
    notes = []
    if numbers is None:
        if classes not in (None, 1):
            raise UserError(f"classes={classes} with labels=none: there is one class; leave classes={classes} away")
        notes.append("no labels (labels=none): one class")
        labels, known = np.zeros(len(names), np.int32), [UNLABELLED]
    else:
        highest = int(numbers.max())
        if classes is not None and highest >= classes:
            first = int(numbers.argmax())
            raise UserError(
                f"classes={classes}, but {_at(names, first)} has the label {highest}: labels count from 0, so say "
                f"classes={highest + 1}, or leave it away"
            )
        labels, known = numbers.astype(np.int32), [str(number) for number in range(classes or highest + 1)]
    return ImageSource(kind, root, names, labels, known, read, tuple(notes), files)


def _all_files(root: Path) -> tuple[str, ...]:
    """Of zarr: its metadata, hidden files too, and every chunk."""
    found = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return tuple(sorted(path.relative_to(root).as_posix() for path in found))


def _at(names: list[str] | None, index: int) -> str:
    return names[index] if names else f"number {index:,}"
