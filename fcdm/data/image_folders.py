"""Images as files: in class folders, with a file of labels (EDM2's dataset.json, or the user's), or of one class."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from fcdm.data.images import ENDINGS
from fcdm.data.label_files import INDEX, numbered, read_labels
from fcdm.data.labelled_images import UNLABELLED, ImageSource, some
from fcdm.data.splits import split_named
from fcdm.errors import UserError

FOLDERS, NONE = "folders", "none"
"""What `labels=` says besides a file's name: the class folders, or that there is one class."""


def folder_source(root: Path, files: list[str], labels: str | None, unpack: str = "") -> ImageSource:
    """The images among the `files` below `root`; labels as `open_source` has it.

    unpack: what to say where there are no images but packed ones. Raises UserError.
    """
    images = [name for name in files if _is_image(name)]
    if not images:
        raise UserError(
            f"images={root} has no images"
            + (unpack or ": wanted are image files (.jpg, .png, ...), in one folder per class if they have labels")
        )
    if any("\n" in name or "\r" in name for name in images):
        raise UserError(f"images={root}: a file's name has a line break: rename it")
    if labels not in (None, FOLDERS, NONE):
        return _by_file(root, images, Path(str(labels)).expanduser())
    if labels is None and INDEX in files:
        return _by_file(root, images, root / INDEX)
    if labels != FOLDERS:
        _refuse_splits(root, images, or_classes=labels is None)
    if labels == NONE:
        return _one_class(root, images, "labels=none")
    return _by_folder(root, images, files, asked=labels == FOLDERS)


def _by_folder(root: Path, images: list[str], files: list[str], asked: bool) -> ImageSource:
    """One class per folder in `root`. A folder without any image is none; loose images alone are one class."""
    classes: dict[str, list[str]] = defaultdict(list)
    loose = []
    for name in images:
        folder, inside, rest = name.partition("/")
        if inside:
            classes[folder].append(rest)
        else:
            loose.append(name)
    if not classes and asked:
        raise UserError(f"images={root} has {len(loose):,} images and no class folders: say labels=none, or a file")
    if not classes:
        return _one_class(root, images, f"no class folders in {root}")
    inside_classes = len(images) - len(loose)
    if len(loose) > inside_classes and not asked:
        raise UserError(
            f"images={root} has {len(loose):,} images beside its folders and {inside_classes:,} in them "
            f"({some(sorted(classes))}): say labels=none (all, as one class) or labels=folders (those in folders alone)"
        )
    if not asked and _only_count(images):
        raise UserError(
            f"images={root} has folders that only count its images ({min(images)}), as EDM2's and FFHQ's, and no "
            f"{INDEX} with labels: say labels=FILE, labels=none (one class), or labels=folders if they are classes"
        )
    ordered = sorted(classes)
    notes = []
    if others := len(files) - inside_classes:
        notes.append(f"{others:,} other files were left out (no image's ending, or outside the class folders)")
    if loose:
        notes.append(f"{len(loose):,} of them are images beside the class folders")
    if empty := sorted(_folders(root) - classes.keys()):
        notes.append(f"{len(empty):,} folders without images are no classes: {some(empty, 10)}")
    return _source(
        root,
        [f"{name}/{rest}" for name in ordered for rest in sorted(classes[name])],
        np.repeat(np.arange(len(ordered)), [len(classes[name]) for name in ordered]).tolist(),
        ordered,
        notes,
    )


def _by_file(root: Path, images: list[str], path: Path) -> ImageSource:
    """Every image with the label that a file gives it; the two must name the same images. Raises UserError."""
    given = read_labels(path, root)
    if given is None:
        return _one_class(root, images, f"{path} says that there are no labels")
    here = set(images)
    unlabelled, absent = sorted(here - given.keys()), [name for name in given if name not in here]
    wrong = []
    if unlabelled:
        wrong.append(f"gives no label to {len(unlabelled):,} of the {len(images):,} images, first {unlabelled[0]}")
    if absent:
        wrong.append(f"names {len(absent):,} that are no images below {root}, first {absent[0]}")
    if wrong:
        own = path == root / INDEX
        remedy = "mend it, or say labels=FILE, labels=folders or labels=none" if own else "each path is below images="
        raise UserError(f"{path} {' and '.join(wrong)}: {remedy}")
    numbers, classes = numbered(given, path)
    names = sorted(images)
    notes = [f"labels of {path}: {len(classes):,} classes"]
    return _source(root, names, [numbers[name] for name in names], classes, notes)


def _one_class(root: Path, images: list[str], why: str) -> ImageSource:
    return _source(root, sorted(images), [0] * len(images), [UNLABELLED], [f"no labels ({why})"])


def _source(root: Path, names: list[str], labels: list[int], classes: list[str], notes: list[str]) -> ImageSource:
    def read(index: int) -> Path:
        return root / names[index]

    return ImageSource("folder", root, names, np.array(labels, dtype=np.int32), classes, read, tuple(notes))


def _refuse_splits(root: Path, images: list[str], or_classes: bool) -> None:
    """Raises UserError where a folder with images in it, at any depth, is named like a split."""
    folders = {PurePosixPath(folder) for folder in {name.rpartition("/")[0] for name in images}}
    splits = {up for folder in folders for up in (folder, *folder.parents) if split_named(up.name)}
    if not splits:
        return
    first = min(splits, key=lambda path: (len(path.parts), split_named(path.name) != "train", path))
    raise UserError(
        f"images={root} holds folders named like splits ({some(sorted(map(str, splits)))}), which would be mixed: "
        f"say images={root / first}" + (f", or labels={FOLDERS} if they are classes" if or_classes else "")
    )


def _only_count(images: list[str]) -> bool:
    """Whether folders hold a thousand images each, by their numbers: `00001/img00001234.png`, `69000/69123.png`."""
    for name in images:
        found = re.fullmatch(r"(\d{5,})/[a-zA-Z]*(\d{5,})\.\w+", name)
        if not found or int(found[2]) // 1000 not in (int(found[1]), int(found[1]) / 1000):
            return False
    return True


def _folders(root: Path) -> set[str]:
    with os.scandir(root) as entries:
        return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 - a million times
