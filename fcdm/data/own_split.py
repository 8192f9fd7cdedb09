"""A source with its own test split: folders, tables, IDX files or an .npz with a part to train on and one to test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcdm.atomic import describe_oserror
from fcdm.data.array_source import array_splits
from fcdm.data.idx_source import idx_files
from fcdm.data.image_folders import NONE
from fcdm.data.image_sources import ImageSource, open_source
from fcdm.data.label_files import INDEX
from fcdm.data.labelled_images import AS_IT_IS, SourceOptions, some
from fcdm.data.table_files import table_splits
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.images.crop import Source
from fcdm.images.listing import ARRAYS, TABLES, files_below, is_image
from fcdm.images.splits import split_named

TESTS = ("test", "validation")
"""What is held out, the first that there is."""


def open_with_test(root: Path, options: SourceOptions = AS_IT_IS) -> ImageSource:
    """As `open_source`; with the source's own test split, where it has one beside its training split."""
    pair = None if options.split else _splits(root, options.labels)
    if pair is None:
        return open_source(root, options)
    train, test = pair.train, pair.test
    if pair.folders:
        sources = [open_source(root / name, options) for name in (train, test)]
    else:
        sources = [
            open_source(root, dataclasses.replace(options, split=name), beside=other)
            for name, other in ((train, test), (test, train))
        ]
    found = _joined(root, *sources)
    if others := [name for name in pair.folders if name not in (train, test)]:
        found = dataclasses.replace(found, notes=(*found.notes, f"of its splits, {some(others)} left out"))
    return found


@dataclass(frozen=True)
class _Pair:
    """What is trained on and what is held out: what `split=` calls them, or the folders that they are."""

    train: str
    test: str
    folders: tuple[str, ...] = ()
    """Where they are folders: those that name a split."""


def _splits(root: Path, labels: str | None) -> _Pair | None:
    """The two parts; None: there are none. Raises UserError."""
    if labels not in (None, NONE) or not root.exists():
        return None
    if root.is_file():
        splits = array_splits(root) if root.suffix in ARRAYS else set()
        return _Pair("train", "test") if {"train", "test"} <= splits else None
    try:
        files = files_below(root)
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), "listing the images") from error
    if tables := [name for name in files if name.endswith(TABLES)]:
        splits = table_splits(root, tables, files)
        found = next((name for name in TESTS if {"train", name} <= splits), None)
        return _Pair("train", found) if found else None
    if not any(map(is_image, files)):
        idx = idx_files(root, files)
        return _Pair("train", "test") if idx and idx.test else None
    # Folders called so may be classes: only where all are called so, and no file of labels says which image is what.
    tops = {name.partition("/")[0] for name in files if is_image(name)}
    folders = {split_named(name): name for name in sorted(tops)}
    found = next((name for name in TESTS if name in folders), None)
    if INDEX in files or "" in folders or len(folders) < len(tops) or "train" not in folders or found is None:
        return None
    return _Pair(folders["train"], folders[found], tuple(folders.values()))


def _joined(root: Path, train: ImageSource, test: ImageSource) -> ImageSource:
    """Both as one source, names below the root they share. Raises UserError where the test has classes of its own."""
    numbers = {name: number for number, name in enumerate(train.classes)}
    if strangers := [name for name in test.classes if name not in numbers]:
        raise UserError(
            f"images={root}: its test split has {plural(len(strangers), 'class', 'classes')} not to train on, first "
            f"{strangers[0]}: say images=<the part to train on> (or split=train), of which heldout=0.1 is held out"
        )
    moved = np.array([numbers[name] for name in test.classes], np.int32)

    def read(index: int) -> Source:
        return train.read(index) if index < len(train) else test.read(index - len(train))

    files = None
    if train.files is not None and test.files is not None:
        files = tuple(dict.fromkeys(_below(root, train, train.files) + _below(root, test, test.files)))
    return dataclasses.replace(
        train,
        root=root if root.is_dir() else root.parent,
        names=[*_below(root, train, train.names), *_below(root, test, test.names)],
        labels=np.concatenate([train.labels, moved[test.labels]]),
        read=read,
        notes=(*train.notes, f"its own test split is held out: {plural(len(test), 'image')}"),
        files=files,
        test=np.arange(len(train) + len(test)) >= len(train),
    )


def _below(root: Path, source: ImageSource, names: Sequence[str]) -> list[str]:
    place = "." if root.is_file() else source.root.relative_to(root).as_posix()
    return [*names] if place == "." else [f"{place}/{name}" for name in names]
