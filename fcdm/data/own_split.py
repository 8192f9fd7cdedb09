"""A source with its own test split: a folder, or tables, that hold a part to train on and one to test on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror
from fcdm.data.image_sources import ImageSource, open_source
from fcdm.data.table_files import table_splits
from fcdm.errors import UserError
from fcdm.images.crop import Source
from fcdm.images.listing import TABLES, files_below
from fcdm.images.splits import split_named

TESTS = ("test", "validation")
"""What is held out, the first that there is."""


def open_with_test(
    root: Path,
    labels: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    split: str | None = None,
    value_range: str | None = None,
    layout: str | None = None,
) -> ImageSource:
    """As `open_source`; with the source's own test split, where it has one beside its training split."""
    of_source = image_key, label_key
    if split is None and root.is_dir():
        try:
            files = files_below(root)
        except OSError as error:
            raise describe_oserror(error, Path(error.filename or root), "listing the images") from error
        if labels in (None, "none") and (tables := [name for name in files if name.endswith(TABLES)]):
            splits = table_splits(root, tables, files)
            if found := next((name for name in TESTS if {"train", name} <= splits), None):
                train = open_source(root, labels, *of_source, "train")
                return _joined(root, train, open_source(root, labels, *of_source, found))
        elif labels in (None, "none", "folders") and not tables:
            folders = {
                split_named(name): name for name in sorted({name.split("/", 1)[0] for name in files if "/" in name})
            }
            if "train" in folders and (found := next((name for name in TESTS if name in folders), None)):
                train = open_source(root / folders["train"], labels)
                return _joined(root, train, open_source(root / folders[found], labels))
    return open_source(root, labels, *of_source, split, value_range, layout)


def _joined(root: Path, train: ImageSource, test: ImageSource) -> ImageSource:
    """Both as one source, names below the root they share. Raises UserError where the test has classes of its own."""
    if strangers := [name for name in test.classes if name not in train.classes]:
        raise UserError(
            f"images={root}: its test split has {len(strangers):,} classes that are none to train on, first "
            f"{strangers[0]}: say images=<the folder to train on>, and heldout=0.1 holds a part of it out"
        )
    numbers = np.array([train.classes.index(name) for name in test.classes], np.int32)

    def read(index: int) -> Source:
        return train.read(index) if index < len(train) else test.read(index - len(train))

    return dataclasses.replace(
        train,
        root=root,
        names=[*_below(root, train, train.names), *_below(root, test, test.names)],
        labels=np.concatenate([train.labels, numbers[test.labels]]),
        read=read,
        notes=(*train.notes, f"its own test split is held out: {len(test):,} images"),
        files=tuple(_below(root, train, train.files or train.names) + _below(root, test, test.files or test.names)),
        test=_after(len(train), len(test)),
    )


def _below(root: Path, source: ImageSource, names: Sequence[str]) -> list[str]:
    place = source.root.relative_to(root).as_posix()
    return [*names] if place == "." else [f"{place}/{name}" for name in names]


def _after(train: int, test: int) -> NDArray[np.bool_]:
    return np.arange(train + test) >= train
