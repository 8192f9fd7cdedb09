"""Images in an .npz or .npy as a data set: labels are the .npz's `arr_1`, as in ADM's files, or Keras' `y_train`."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.data.image_folders import NONE
from fcdm.data.labelled_images import LARGEST, UNLABELLED, ImageSource
from fcdm.errors import UserError
from fcdm.images.arrays import KERAS, LABELS, array_names, open_array, read_labels
from fcdm.images.splits import split_named

BLOCK = 64
"""Images read at a time: threads ask for them nearly in order, and a packed file can only be read forwards."""
BLOCKS = 4
"""So many are kept."""


def array_splits(path: Path) -> set[str]:
    """The splits that a file of Keras' layout holds: `train`, `test`; of another layout none. Raises UserError."""
    there = array_names(path)
    return {split for split, (images, _) in KERAS.items() if images in there}


def array_source(
    path: Path, labels: str | None, value_range: str | None, layout: str | None, split: str | None = None
) -> ImageSource:
    """The images of the file. labels: `none`: one class; null: those in the file, and one class where it has none.

    value_range, layout: as `fcdm.images.arrays.open_array` takes them. split: of Keras' layout; null: train. Raises
    UserError.
    """
    splits = array_splits(path)
    if split is not None and split_named(split) not in splits:
        raise UserError(
            f"images={path}: it has no split {split}: "
            + (f"say split={' or split='.join(sorted(splits))}" if splits else "leave split= away")
        )
    names = KERAS[split_named(split or "train")] if splits else None
    of_labels = names[1] if names else LABELS
    if labels not in (None, NONE):
        raise UserError(
            f"images={path}: labels={labels} is for image files; an .npz has its labels in `{of_labels}`, and "
            "labels=none takes it without: leave it away"
        )
    images = open_array(path, value_range, layout, names)
    numbers = read_labels(path, of_labels) if labels is None else None
    if numbers is not None and names and numbers.shape[1:] == (1,):
        numbers = numbers[:, 0]  # as Keras' CIFAR has them
    notes = [f"{path}: {images.told}"]
    if numbers is None:
        notes.append("no labels (labels=none)" if labels else f"no labels (no `{of_labels}` in {path.name})")
    elif numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= LARGEST:
        raise UserError(
            f"{path}: `{of_labels}` is {numbers.dtype} of shape {numbers.shape}: class numbers from 0, one per image, "
            "are wanted; labels=none takes the images without"
        )
    lock = threading.Lock()
    blocks: dict[int, NDArray[np.uint8]] = {}

    def read(index: int) -> NDArray[np.uint8]:
        number, place = divmod(index, BLOCK)
        with lock:
            if number not in blocks:
                for old in sorted(blocks)[: len(blocks) - BLOCKS + 1]:
                    del blocks[old]
                blocks[number] = images.pixels(number * BLOCK, min((number + 1) * BLOCK, images.count))
            found: NDArray[np.uint8] = blocks[number][place]
            return found

    said = (f"/{names[0]}" if names else "") + (f" ({images.said})" if images.said else "")
    return ImageSource(
        path.suffix[1:],
        path.parent,
        [f"{path.name}{said}:{number}" for number in range(images.count)],
        np.zeros(images.count, np.int32) if numbers is None else numbers.astype(np.int32),
        [UNLABELLED] if numbers is None else [str(label) for label in range(int(numbers.max()) + 1)],
        read,
        tuple(notes),
        (path.name,),
    )
