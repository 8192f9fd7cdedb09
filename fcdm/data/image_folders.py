"""Images as files: in class folders, with a file of labels (EDM2's dataset.json, or the user's), or of one class."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fcdm.data.label_files import INDEX, numbered, read_labels
from fcdm.data.labelled_images import UNLABELLED, ImageSource, some
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.images.listing import by_folder, is_image
from fcdm.images.splits import split_folders
from fcdm.paths import place

FOLDERS, NONE = "folders", "none"
"""What `labels=` says besides a file's name: the class folders, or that there is one class."""


def folder_source(root: Path, files: list[str], labels: str | None, instead: str = "") -> ImageSource:
    """The images among the `files` below `root`; labels as `SourceOptions` has it.

    instead: what to say where there are none, but something else. Raises UserError.
    """
    images = by_folder(filter(is_image, files))
    if not images:
        raise UserError(
            f"images={root} has no images"
            + (instead or ": wanted are image files (.jpg, .png, ...), in one folder per class if they have labels")
        )
    if any("\n" in name or "\r" in name for name in images):
        raise UserError(f"images={root}: a file's name has a line break: rename it")
    if labels not in (None, FOLDERS, NONE):
        return _by_file(root, images, place(str(labels)))
    if labels is None and INDEX in files:
        return _by_file(root, images, root / INDEX)
    if labels != FOLDERS:
        _refuse_splits(root, images, or_classes=labels is None)
    if labels == NONE:
        return _one_class(root, images, "labels=none")
    notes = [] if labels else _unread(root, files)
    if "/" in images[-1]:
        return _by_folder(root, images, files, notes, asked=labels == FOLDERS)
    if labels == FOLDERS:
        raise UserError(
            f"images={root} has {len(images):,} images, no class folders: say labels=none (one class) or labels=FILE"
        )
    return _one_class(root, images, f"no class folders in {root}", notes)


def _by_folder(root: Path, images: list[str], files: list[str], notes: list[str], asked: bool) -> ImageSource:
    """One class per folder in `root` that has images in it. asked: so it was said, and nothing is to be doubted."""
    names = [name for name in images if "/" in name]
    loose = len(images) - len(names)
    numbers = {folder: number for number, folder in enumerate(dict.fromkeys(name.split("/", 1)[0] for name in names))}
    if loose > len(names) and not asked:
        raise UserError(
            f"images={root} has {loose:,} images beside its folders and {len(names):,} in them "
            f"({some(list(numbers))}): say labels=none (all, as one class) or labels=folders (those in folders alone)"
        )
    if not asked and _only_count(names):
        raise UserError(
            f"images={root} has folders that only count its images ({names[0]}), as EDM2's and FFHQ's, and no "
            f"{INDEX} with labels: say labels=FILE, labels=none (one class), or labels=folders if they are classes"
        )
    if others := len(files) - len(names):
        notes.append(f"{others:,} other files were left out (no image's ending, or outside the class folders)")
    if loose:
        notes.append(f"of them {plural(loose, 'image')} beside the class folders")
    if empty := sorted(_folders(root) - numbers.keys()):
        notes.append(f"{plural(len(empty), 'folder')} without images, so no classes: {some(empty, 10)}")
    return _source(root, names, [numbers[name.split("/", 1)[0]] for name in names], list(numbers), notes)


def _by_file(root: Path, images: list[str], path: Path) -> ImageSource:
    """Every image with the label that a file gives it; the two must name the same images. Raises UserError."""
    given = read_labels(path, root)
    if given is None:
        return _one_class(root, images, f"{path} says that there are no labels")
    here = set(images)
    unlabelled, absent = [name for name in images if name not in given], [name for name in given if name not in here]
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
    notes = [f"labels of {path}: {plural(len(classes), 'class', 'classes')}"]
    return _source(root, images, [numbers[name] for name in images], classes, notes)


def _unread(root: Path, files: list[str]) -> list[str]:
    """A note of what may hold labels, as metadata.csv of HF's folders does, and is not taken for them unasked."""
    tables = sorted(name for name in files if "/" not in name and name.lower().endswith((".csv", ".tsv")))
    return [f"{some(tables, 3)} not read: if it holds labels, say labels={root / tables[0]}"] if tables else []


def _one_class(root: Path, images: list[str], why: str, notes: Sequence[str] = ()) -> ImageSource:
    return _source(root, images, [0] * len(images), [UNLABELLED], [f"no labels ({why})", *notes])


def _source(root: Path, names: list[str], labels: list[int], classes: list[str], notes: list[str]) -> ImageSource:
    def read(index: int) -> Path:
        return root / names[index]

    return ImageSource("folder", root, names, np.array(labels, dtype=np.int32), classes, read, tuple(notes))


def _refuse_splits(root: Path, images: list[str], or_classes: bool) -> None:
    """Raises UserError where a folder with images in it, at any depth, is named like a split."""
    splits = split_folders(images)
    if not splits:
        return
    raise UserError(
        f"images={root} holds folders named like splits ({some(sorted(splits))}), which would be mixed: "
        f"say images={root / splits[0]}" + (f", or labels={FOLDERS} if they are classes" if or_classes else "")
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
