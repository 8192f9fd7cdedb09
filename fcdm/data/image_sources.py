"""Where labelled images come from: a folder of class folders, or a HF `datasets` copy (parquet or arrow files)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror
from fcdm.data.images import ENDINGS, Unreadable
from fcdm.errors import UserError


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labelled images in a fixed order: by class folder, then by path; or by file, then by row."""

    kind: str
    """`folder`, `parquet` or `arrow`."""
    root: Path
    names: list[str]
    """Path below the root with `/`, or `<file>:<row>`; one per image."""
    labels: NDArray[np.int32]
    """(N,)."""
    classes: list[str]
    read: Callable[[int], Path | bytes]
    """Image number -> its file or its bytes. Safe in threads. Raises Unreadable."""
    notes: tuple[str, ...] = ()
    """What a person should know of it."""

    def __len__(self) -> int:
        return len(self.names)

    def checksum(self) -> str:
        """sha256 of the names and labels in their order; not of where they lie, nor of the pixels."""
        digest = hashlib.sha256()
        for name, label in zip(self.names, self.labels.tolist(), strict=True):
            digest.update(f"{label}\t{name}\n".encode("utf-8", "surrogateescape"))
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()


def open_source(root: Path) -> ImageSource:
    """Lists what is in `root`. Raises UserError, in one line, where that is no labelled images."""
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"images={root} {kind}: a folder with one folder of images per class is wanted")
    try:
        tables = sorted(p for ending in ("parquet", "arrow") for p in root.rglob(f"*.{ending}") if p.name[0] != ".")
        return _tables(root, tables) if tables else _folder(root)
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), "listing the images") from error


def _folder(root: Path) -> ImageSource:
    with os.scandir(root) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in found if entry.is_dir())
    loose = sum(_is_image(entry.name) for entry in found if not entry.is_dir())
    if not classes:
        what = f"{loose:,} images but no class folders" if loose else "no class folders"
        raise UserError(f"images={root} has {what}: {root}/<class>/<image> is wanted, one folder per class")
    names: list[str] = []
    labels: list[int] = []
    others = loose
    for label, name in enumerate(classes):
        files, left_out = _images_below(root / name)
        if not files:
            raise UserError(f"images={root}: the class folder {name} has no images: remove it, or fill it")
        names += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
        others += left_out
    if any("\n" in name or "\r" in name for name in names):
        raise UserError(f"images={root}: a file's name has a line break: rename it")
    notes = (f"{others:,} other files were left out (no image's ending, or outside the class folders)",)
    return ImageSource(
        "folder",
        root,
        names,
        np.array(labels, dtype=np.int32),
        classes,
        lambda index: root / names[index],
        notes if others else (),
    )


def _images_below(folder: Path) -> tuple[list[str], int]:
    """Sorted paths relative to `folder`, with `/`, and how many files were left out."""
    files: list[str] = []
    left_out = 0
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in names if not name.startswith(".")]
        below = Path(path).relative_to(folder)
        images = [(below / name).as_posix() for name in shown if _is_image(name)]
        files += images
        left_out += len(shown) - len(images)
    return sorted(files), left_out


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 - a million times


def _tables(root: Path, paths: list[Path]) -> ImageSource:
    """HF's layouts: `train-00000-of-00294.parquet`, or `save_to_disk`'s `data-00000-of-00001.arrow`."""
    kind = paths[0].suffix[1:]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"images={root} holds {kind} files, which need pyarrow: pip install pyarrow") from None
    paths = [path for path in paths if path.suffix[1:] == kind]
    paths, notes = _one_split(root, paths)
    tables = [_Table(path) for path in paths]
    names = [
        f"{path.relative_to(root).as_posix()}:{row}"
        for path, table in zip(paths, tables, strict=True)
        for row in range(len(table))
    ]
    labels = np.concatenate([table.labels for table in tables])
    if not len(labels):
        raise UserError(f"images={root}: its {kind} files have no rows")
    if labels.min() < 0:
        raise UserError(f"images={root} has rows without a label (label {labels.min()}): is it a test split?")
    classes = tables[0].classes or [str(label) for label in range(int(labels.max()) + 1)]
    if labels.max() >= len(classes):
        raise UserError(f"images={root} has label {labels.max()}, but names for {len(classes)} classes only")
    starts = np.cumsum([0, *(len(table) for table in tables)])

    def read(index: int) -> bytes:
        table = int(np.searchsorted(starts, index, side="right")) - 1
        return tables[table].image(index - int(starts[table]))

    return ImageSource(kind, root, names, labels.astype(np.int32), classes, read, notes)


def _one_split(root: Path, paths: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The training split, where file names or folders tell several apart."""
    split = {path: _split_of(path.relative_to(root)) for path in paths}
    splits = sorted(set(split.values()))
    if len(splits) == 1:
        return paths, ()
    if "train" not in splits:
        raise UserError(f"images={root} holds several splits ({', '.join(splits)}): point at one of them")
    left = ", ".join(name for name in splits if name != "train")
    return [path for path in paths if split[path] == "train"], (f"of its splits, train is taken ({left} left out)",)


def _split_of(path: Path) -> str:
    found = re.match(r"(\w+?)-\d+", path.name)
    name = found[1] if found and found[1] != "data" else path.parent.name
    return name if name in ("train", "validation", "valid", "val", "test") else ""


class _Table:
    """One parquet or arrow file: labels in memory, images read by row."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self._lock = threading.Lock()
        self._groups: dict[int, Any] = {}
        try:
            if path.suffix == ".parquet":
                self._file = pq.ParquetFile(path)
                schema, labels = self._file.schema_arrow, None
                rows = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
                if "label" in schema.names:
                    labels = self._file.read(columns=["label"]).column("label")
            else:
                self._file = None
                # Memory-mapped: nothing is read before it is asked for.
                table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
                schema, rows = table.schema, [len(table)]
                labels = table.column("label") if "label" in schema.names else None
                if "image" in schema.names:
                    self._groups[0] = table.column("image")
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None
        if labels is None or "image" not in schema.names:
            raise UserError(f"{path} has the columns {', '.join(schema.names)}: image and label are wanted")
        try:
            self.labels: NDArray[np.int64] = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        except (ValueError, TypeError):
            raise UserError(f"{path}: the column label must hold class numbers, not {labels.type}") from None
        self.classes = _class_names(schema.metadata)
        self._starts = np.cumsum([0, *rows])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._groups:
                try:
                    read = self._file.read_row_group(group, columns=["image"]).column("image")
                except OSError as error:
                    raise Unreadable(f"row group {group}: {' '.join(str(error).split())[:100]}") from None
                # Rows come nearly in order: this group and the one before are enough.
                self._groups = {key: value for key, value in self._groups.items() if key == group - 1} | {group: read}
            value = self._groups[group][row - int(self._starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise Unreadable("the column image holds no bytes of an image file")
        return data


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """The names that HF `datasets` keeps in a schema's metadata."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
