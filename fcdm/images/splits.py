"""Words for the parts of a data set: in the names of files and folders, they say train, validation or test."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Lower-case word -> the split it names: those of HF `datasets`."""


def split_named(name: str) -> str:
    """The split of which a name is the word, as of the folder `Val`; "" where it is none."""
    return SPLITS.get(name.casefold(), "")


def split_within(name: str) -> str:
    """The split that a name of several words holds, the last one: `train` of `imagenet-1k-train`."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "")


def split_folders(images: Iterable[str]) -> list[str]:
    """The folders that name a split and hold some of the images, at any depth; of the uppermost, train first.

    By their whole name, as `train`; or by a word of it, as `train2017` beside `val2017`. `train_station` alone, or
    among many without such a word, is a class.
    """
    folders = {PurePosixPath(folder) for folder in {name.rpartition("/")[0] for name in images}}
    beside = defaultdict(set)
    for path in {up for folder in folders for up in (folder, *folder.parents) if up.name}:
        beside[path.parent].add(path)
    found: list[PurePosixPath] = []
    for siblings in beside.values():
        worded = {path for path in siblings if split_within(path.name)}
        apart = len({split_within(path.name) for path in worded}) > 1 and 2 * len(worded) >= len(siblings)
        found += [path for path in worded if apart or split_named(path.name)]
    order = sorted(found, key=lambda path: (len(path.parts), split_within(path.name) != "train", path))
    return [str(path) for path in order]
