"""Images to train on, with labels: a folder in any layout, a HF `datasets` copy (parquet, arrow), .npz, .npy, IDX."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fcdm.atomic import describe_oserror
from fcdm.data.array_source import array_source, array_splits
from fcdm.data.idx_source import IdxFiles, idx_files, idx_source, is_idx
from fcdm.data.image_folders import NONE, folder_source
from fcdm.data.image_tables import table_source
from fcdm.data.labelled_images import AS_IT_IS, ImageSource, SourceOptions, some
from fcdm.data.table_files import choose_tables
from fcdm.errors import UserError
from fcdm.images.listing import ARRAYS, TABLES, files_below, is_image
from fcdm.images.splits import split_named

__all__ = ["ImageSource", "open_source"]

PACKED = (".zip", ".tar", ".tgz", ".gz", ".7z")


def open_source(root: Path, options: SourceOptions = AS_IT_IS, beside: str | None = None) -> ImageSource:
    """Lists the images in `root`: a folder, or a parquet, arrow, .npz, .npy or IDX file. What is read: docs/data.md.

    Labels that nothing is said of are the data set's own; one class where it has none. beside: the split that the
    caller reads too, so that nothing is told of it. Raises UserError, in one line.
    """
    labels, split = options.labels, options.split
    try:
        if not root.exists():
            raise UserError(
                f"images={root} does not exist: say a folder of images, or a parquet, arrow, .npz, .npy or IDX file"
            )
        files = files_below(root) if root.is_dir() else [root.name]
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), "listing the images") from error
    packed = [name for name in files if name.endswith(PACKED)]
    tables = [name for name in files if name.endswith(TABLES)]
    of_tables = {"image_key": options.image_key, "label_key": options.label_key, "split": split}
    of_arrays = {"range": options.value_range, "layout": options.layout}
    is_array = root.is_file() and root.suffix in ARRAYS
    idx = _idx(root, files)
    if not is_array and (asked := [key for key, value in of_arrays.items() if value]):
        raise UserError(f"images={root}: {asked[0]} is for .npz and .npy files: leave it away")
    if (is_array or idx) and (asked := [key for key in ("image_key", "label_key") if of_tables[key]]):
        raise UserError(f"images={root}: {asked[0]} is for parquet and arrow files: leave it away")
    if is_array:
        if split and not array_splits(root):
            raise UserError(f"images={root}: split is for parquet and arrow files: leave it away")
        source = array_source(root, labels, options.value_range, options.layout, split)
    elif idx:
        source = _of_idx(root, idx, labels, split, beside)
    elif labels in (None, NONE) and tables:
        chosen = choose_tables(root, tables, files, split, beside)
        source = table_source(chosen, options.image_key, options.label_key, unlabelled=labels == NONE)
    elif root.is_file():
        other = _label_key(labels, tables) or _unpack(packed) or ", nor a parquet, arrow, .npz, .npy or IDX file"
        raise UserError(f"images={root} is a file, not a folder{other}")
    elif asked := [key for key, value in of_tables.items() if value]:
        why = f"labels={labels} asks for its image files" if tables else "it holds none"
        raise UserError(f"images={root}: {asked[0]} is for parquet and arrow files, and {why}: leave it away")
    else:
        source = folder_source(root, files, labels, _label_key(labels, tables) or _unpack(packed))
    return dataclasses.replace(source, notes=(*source.notes, *_of_classes(source)))


def _idx(root: Path, files: list[str]) -> IdxFiles | None:
    """The IDX files of a folder that holds no tables and no image files, or the one that is named."""
    if root.is_file():
        return IdxFiles(root.name, None) if is_idx(root) else None
    if any(name.endswith(TABLES) or is_image(name) for name in files):
        return None
    return idx_files(root, files)


def _of_idx(root: Path, files: IdxFiles, labels: str | None, split: str | None, beside: str | None) -> ImageSource:
    """The images to train on, or those of the split that is asked for. Raises UserError."""
    folder = root.parent if root.is_file() else root
    word = split_named(split or "train")
    if word not in ("train", "test") or (word == "test" and files.test is None):
        raise UserError(
            f"images={root} has no split {split}" + (": say split=train or split=test" if files.test else "")
        )
    found = idx_source(folder, files.test if word == "test" and files.test else files.train, labels)
    if split or beside or files.test is None:
        return found
    note = f"of its splits, train is taken (test, {files.test}, left out); split=test takes that"
    return dataclasses.replace(found, notes=(*found.notes, note))


def open_tables(root: Path, image_key: str | None = None, split: str | None = None) -> ImageSource:
    """The images of parquet or arrow files, without labels; arguments as in `SourceOptions`. Raises UserError."""
    try:
        files = files_below(root) if root.is_dir() else [root.name]
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), "listing the images") from error
    chosen = choose_tables(root, [name for name in files if name.endswith(TABLES)], files, split)
    return table_source(chosen, image_key, None, unlabelled=True)


def _label_key(labels: str | None, tables: list[str]) -> str:
    return f": labels={labels} is for image files; label_key= says the column of {min(tables)}" if tables else ""


def _unpack(packed: list[str]) -> str:
    return f": unpack {some(sorted(packed), 2)}, and say the folder that comes of it" if packed else ""


def _of_classes(source: ImageSource) -> list[str]:
    """What a person should know of the classes, whatever the layout."""
    notes = []
    classes = source.classes
    counts = np.bincount(source.labels, minlength=len(classes))
    if len(classes) == 1:
        notes.append(
            f"one class ({classes[0]}): models of it are unconditional, and trained without label drop "
            "(label_drop.probability=0), since there is no label to drop"
        )
    if empty := [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]:
        notes.append(
            f"{len(empty):,} of its {len(classes):,} classes have no images ({some(empty)}): they keep their numbers, "
            "but nothing trains them, and evaluations draw labels of all classes"
        )
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    if numbers and (moved := [n for n, name in enumerate(classes) if int(name) != n]):
        at = moved[0]
        notes.append(
            f"its classes are called by numbers that are not their own: class {at} is called {classes[at]}. label={at} "
            f"means class {at}, label=name:{classes[at]} the one called so"
        )
    return notes
