"""The numbers of an .npz or .npy, read as a stream: files of 10 GB in one array, packed ones too. Torch-free."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror
from fcdm.errors import UserError

KEYS = ("arr_0", "arr")
"""ADM's, and the public FCDM code's."""


@dataclass(frozen=True)
class Header:
    """What a .npy says of itself before its numbers."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[np.generic]
    offset: int
    """Bytes before the first number."""


class RowStream:
    """Rows of one array in a file, best asked for in order."""

    def __init__(self, path: Path, key: str | None, header: Header) -> None:
        """key: the array's name in an .npz; None: a .npy. Raises UserError for one number, which has no rows."""
        self._open = contextlib.ExitStack()
        if not header.shape:
            what = f"`{key}` in it" if key else "what it holds"
            raise UserError(
                f"{path}: {what} is one number ({header.dtype}): an array with a row for each image is wanted"
            )
        self.path, self.key, self.header = path, key, header
        self.count = header.shape[0]
        self._row = math.prod(header.shape[1:]) * header.dtype.itemsize
        self._stream: IO[bytes] | None = None
        self._at = 0

    def rows(self, first: int, last: int) -> NDArray[np.generic]:
        """Those from `first` to `last`. Raises UserError where the file ends before."""
        last = min(last, self.count)
        with readable_file(self.path):
            stream = self._stream_at(first)
            raw = bytearray(stream.read((last - first) * self._row))
            self._at = last
        if len(raw) < (last - first) * self._row:
            raise cut_short(self.path)
        return np.frombuffer(raw, self.header.dtype).reshape(last - first, *self.header.shape[1:])

    def close(self) -> None:
        self._open.close()
        self._stream = None

    def __del__(self) -> None:
        self.close()

    def _stream_at(self, row: int) -> IO[bytes]:
        """The open stream, before that row. Raises OSError and what zipfile raises."""
        if self._stream is None or row < self._at:
            self.close()
            self._stream = _stream_of(self.path, self.key, self._open)
            self._stream.seek(self.header.offset)
            self._at = 0
        if row > self._at:
            self._stream.seek((row - self._at) * self._row, os.SEEK_CUR)
            self._at = row
        return self._stream


def open_rows(path: Path) -> tuple[RowStream, str | None]:
    """The one array of a .npy, or `arr_0`, `arr` or the sole one of an .npz, and its name there. Raises UserError."""
    if is_npy(path):
        with readable_file(path), open(path, "rb") as file:
            header = read_header(file)
            if path.stat().st_size < header.offset + math.prod(header.shape) * header.dtype.itemsize:
                raise cut_short(path)
        return RowStream(path, None, header), None
    with readable_file(path), zipfile.ZipFile(path) as archive:
        key = main_key(path, archive)
        return RowStream(path, key, member_header(path, archive, key)), key


def main_key(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of an .npz's own array: ADM's, else that of its only one. Raises UserError."""
    keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    key = next((key for key in KEYS if key in keys), keys[0] if len(keys) == 1 else None)
    if key is None:
        there = f"only {', '.join(keys[:6])}" if keys else "no array at all"
        raise UserError(
            f"{path}: no images in it: an array `arr_0` or `arr`, or one sole array, was expected, and there is {there}"
        )
    return key


def is_npy(path: Path) -> bool:
    """By its first bytes. Raises UserError where it cannot be read."""
    with readable_file(path), open(path, "rb") as file:
        return file.read(6) == np.lib.format.MAGIC_PREFIX


@contextlib.contextmanager
def readable_file(path: Path) -> Iterator[None]:
    """What goes wrong with an .npz or .npy, as a UserError of one line."""
    try:
        yield
    except OSError as error:
        raise describe_oserror(error, path, "reading") from error
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = ".npy" if path.suffix == ".npy" else ".npz"
        raise UserError(f"{path}: not a readable {kind} ({what}): copy or make it again") from error


def member_header(path: Path, archive: zipfile.ZipFile, key: str) -> Header:
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        header = read_header(member)
    if not header.dtype.hasobject and info.file_size < header.offset + math.prod(header.shape) * header.dtype.itemsize:
        raise cut_short(path)
    return header


def _stream_of(path: Path, key: str | None, stack: contextlib.ExitStack) -> IO[bytes]:
    if key is None:
        return stack.enter_context(open(path, "rb"))
    archive = stack.enter_context(zipfile.ZipFile(path))
    return stack.enter_context(archive.open(f"{key}.npy"))


def cut_short(path: Path) -> UserError:
    return UserError(f"{path}: holds fewer images than its header says: copy or make it again")


def read_header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f".npy version {version}")
    return Header(*found, member.tell())
