"""Images in the rows of parquet or arrow files, with the columns that HF `datasets` and its users call them by."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.labelled_images import LARGEST, UNLABELLED, ImageSource
from fcdm.data.table_files import TableFiles
from fcdm.errors import UserError
from fcdm.images.crop import Unreadable

IMAGES = ("image", "img", "webp", "jpg", "jpeg", "png")
LABELS = ("label", "labels", "cls", "fine_label", "coarse_label")
"""What columns are called. The first is taken where there are several; of the others none is better than another."""


def table_source(files: TableFiles, image_key: str | None, label_key: str | None, unlabelled: bool) -> ImageSource:
    """The rows of the files, in order. Keys: columns; null: those that are there. unlabelled: labels are not wanted.

    Raises UserError.
    """
    root = files.root
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"images={root} holds {files.kind} files, which need pyarrow: pip install pyarrow") from None
    if unlabelled and label_key:
        raise UserError(f"label_key={label_key} and labels=none contradict each other: leave one away")
    tables: list[_Table] = []
    notes = list(files.notes)
    for name in files.names:
        table = _Table(root / name)
        if not tables:
            image_key = _column(table, "image_key", image_key, IMAGES, "Image")
            if image_key is None:
                raise UserError(
                    f"{table.path} has the columns {table.columns}: image_key=COLUMN says which holds images"
                )
            if unlabelled:
                notes.append("no labels (labels=none)")
            else:
                asked, label_key = label_key, _column(table, "label_key", label_key, LABELS, "ClassLabel")
                notes += _told(table, image_key, label_key, asked)
        assert image_key is not None
        table.open(image_key, label_key)
        tables.append(table)
        if table.classes != tables[0].classes:
            raise UserError(f"{table.path} has other names of classes than {tables[0].path}: they are no one data set")
    labels = np.concatenate([table.labels for table in tables])
    if not len(labels):
        raise UserError(f"images={root}: its {files.kind} files have no rows")
    starts = np.cumsum([0, *(len(table) for table in tables)])

    def read(index: int) -> Path | bytes:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        return tables[number].image(index - int(starts[number]))

    return ImageSource(
        files.kind,
        root,
        [f"{name}:{row}" for name, table in zip(files.names, tables, strict=True) for row in range(len(table))],
        labels.astype(np.int32),
        _classes(root, labels, tables[0].classes) if label_key else [UNLABELLED],
        read,
        tuple(notes),
        tuple(files.names),
    )


def _classes(root: Path, labels: NDArray[np.int64], names: list[str] | None) -> list[str]:
    """Raises UserError for labels that are no classes."""
    if labels.min() < 0:
        raise UserError(
            f"images={root} has rows without a label (label {labels.min()}): is it a test split? labels=none takes the "
            "images without labels"
        )
    if not names and labels.max() >= LARGEST:
        raise UserError(f"images={root} has label {labels.max()}: class numbers count from 0; say label_key=COLUMN")
    classes = names or [str(label) for label in range(int(labels.max()) + 1)]
    if labels.max() >= len(classes):
        raise UserError(f"images={root} has label {labels.max()}, but names for {len(classes)} classes only")
    return classes


def _column(table: _Table, option: str, asked: str | None, words: Sequence[str], kind: str) -> str | None:
    """The column that is asked for; or the first of `words`, or the only one of HF's `kind` or called by a word.

    Raises UserError where there are several.
    """
    if asked is not None:
        if asked not in table.names:
            raise UserError(f"{table.path} has no column {asked}; {option}= may say {table.columns}")
        return asked
    if words[0] in table.names:
        return words[0]
    typed = [name for name in table.names if table.feature(name).get("_type") == kind]
    found = typed or [word for word in words if word in table.names]
    if len(found) > 1:
        raise UserError(
            f"{table.path} has several columns that may be meant: say {option}={f' or {option}='.join(found)}"
        )
    return found[0] if found else None


def _told(table: _Table, image: str, label: str | None, asked: str | None) -> list[str]:
    if label is None:
        return [f"no labels (columns: {table.columns}; label_key=COLUMN says another)"]
    others = [word for word in LABELS if word in table.names and word != label]
    if others and asked is None:
        return [f"labels are its column {label}, not {', '.join(others)}: label_key= says another"]
    return [] if (image, label) == (IMAGES[0], LABELS[0]) else [f"its columns {image} and {label}"]


class _Table:
    """One parquet or arrow file: labels in memory, images read by row."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self._lock = threading.Lock()
        self._groups: dict[int, Any] = {}
        self._file: Any = None
        self._table: Any = None
        try:
            if path.suffix == ".parquet":
                self._file = pq.ParquetFile(path)
                self._schema = self._file.schema_arrow
                rows = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
            else:
                # Memory-mapped: nothing is read before it is asked for.
                file = pa.memory_map(str(path))
                opened = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
                file.seek(0)
                self._table = opened(file).read_all()
                self._schema, rows = self._table.schema, [len(self._table)]
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}") from None
        self.names: list[str] = self._schema.names
        self._features = _features(self._schema.metadata)
        self._starts = np.cumsum([0, *rows])
        self.labels: NDArray[np.int64] = np.zeros(len(self), dtype=np.int64)
        self.classes: list[str] | None = None

    @property
    def columns(self) -> str:
        return ", ".join(self.names)[:160]

    def feature(self, name: str) -> dict[str, Any]:
        """What HF's metadata say of a column."""
        found = self._features.get(name)
        return found if isinstance(found, dict) else {}

    def open(self, image_key: str, label_key: str | None) -> None:
        """Reads the labels, and sets what `image` reads. label_key None: all labels are 0. Raises UserError."""
        import pyarrow as pa

        for key in filter(None, (image_key, label_key)):
            if key not in self.names:
                raise UserError(f"{self.path} has the columns {self.columns}: {key} is wanted, as in its other files")
        kind = self._schema.field(image_key).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)):
            raise UserError(
                f"{self.path}: the column {image_key} must hold the bytes of image files, not {kind}: say "
                "image_key=COLUMN"
            )
        self._image_key = image_key
        if self._table is not None:
            self._groups[0] = self._table.column(image_key)
        if label_key is None:
            return
        try:
            labels = self._all_rows(label_key)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path} cannot be read: {' '.join(str(error).split())[:160]}") from None
        if labels.null_count:
            raise UserError(
                f"{self.path} has {labels.null_count:,} rows without a label: labels=none takes all without labels"
            )
        # An empty column may be of the type null.
        if not (pa.types.is_integer(labels.type) or pa.types.is_boolean(labels.type) or not len(labels)):
            raise UserError(
                f"{self.path}: the column {label_key} must hold class numbers, not {labels.type}: say "
                "label_key=COLUMN, or labels=none to do without"
            )
        self.labels = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        names = self.feature(label_key).get("names")
        self.classes = [str(name) for name in names] if isinstance(names, list) else None

    def _all_rows(self, name: str) -> Any:
        table = self._file.read(columns=[name]) if self._table is None else self._table
        return table.column(name)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def image(self, row: int) -> Path | bytes:
        import pyarrow as pa

        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._groups:
                try:
                    read = self._file.read_row_group(group, columns=[self._image_key]).column(self._image_key)
                except (OSError, pa.ArrowException) as error:
                    raise Unreadable(f"row group {group}: {' '.join(str(error).split())[:100]}") from None
                # Rows come nearly in order: this group and the one before are enough.
                self._groups = {key: value for key, value in self._groups.items() if key == group - 1} | {group: read}
            value = self._groups[group][row - int(self._starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return data
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return Path(value["path"])  # HF's builders keep the paths of files that lie on this machine
        raise Unreadable(f"the column {self._image_key} holds no bytes of an image file")


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What HF `datasets` keeps of the columns in a schema's metadata."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
