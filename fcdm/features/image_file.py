"""Images in an .npz, read as a stream: ADM's sample and reference files hold up to 10 GB in one array."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from fcdm.atomic import describe_oserror
from fcdm.errors import UserError

KEYS = ("arr_0", "arr")
"""ADM's, and the public FCDM code's."""
Header = tuple[tuple[int, ...], bool, np.dtype[np.generic]]


@dataclass(frozen=True)
class ImageFile:
    """The images of an .npz, of which nothing is read before `batches` is."""

    path: Path
    key: str
    count: int
    height: int
    width: int
    channels: int

    def batches(self, size: int) -> Iterator[Tensor]:
        """The images in order, (up to `size`, c, h, w) uint8 at a time; UserError where the file is cut short."""
        image = self.height * self.width * self.channels
        with readable_npz(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as member:
            _read_header(member)
            for start in range(0, self.count, size):
                n = min(size, self.count - start)
                raw = bytearray(member.read(n * image))
                if len(raw) < n * image:
                    raise UserError(f"{self.path}: holds fewer images than its header says: copy or make it again")
                images = torch.frombuffer(raw, dtype=torch.uint8).view(n, self.height, self.width, self.channels)
                yield images.permute(0, 3, 1, 2).contiguous()


def open_images(path: Path) -> ImageFile:
    """The images of `path`: key `arr_0` or `arr`, (n, h, w, 3) or (n, h, w, 1) or (n, h, w), uint8.

    Reads the header only, and unpickles nothing. UserError for anything else.
    """
    found = peek_images(path)
    if found is None:
        raise UserError(
            f"{path}: no images in it: an array `arr_0` or `arr`, (n, height, width, 3) uint8, was expected"
        )
    return found


def peek_images(path: Path) -> ImageFile | None:
    """As `open_images`, and None for an .npz that has neither key."""
    with readable_npz(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        key = next((key for key in KEYS if f"{key}.npy" in names), None)
        if key is None:
            return None
        with archive.open(f"{key}.npy") as member:
            shape, by_columns, dtype = _read_header(member)
    if dtype.hasobject:
        raise UserError(f"{path}: `{key}` holds Python objects, which could run code when read: refused")
    if dtype != np.uint8 or by_columns or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise UserError(
            f"{path}: `{key}` is {dtype} of shape {shape}: images are uint8, (n, height, width, 3), row by row"
        )
    if math.prod(shape) == 0:
        raise UserError(f"{path}: `{key}` has shape {shape}: there is no image in it")
    count, height, width = shape[:3]
    return ImageFile(path, key, count, height, width, shape[3] if len(shape) == 4 else 1)


@contextlib.contextmanager
def readable_npz(path: Path) -> Iterator[None]:
    """What goes wrong with an .npz, as a UserError of one line."""
    try:
        yield
    except OSError as error:
        raise describe_oserror(error, path, "reading") from error
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable .npz ({what}): copy or make it again") from error


def _read_header(member: IO[bytes]) -> Header:
    """Shape, whether Fortran-ordered, and dtype of a .npy; the stream then stands at its first number."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f".npy version {version}")
