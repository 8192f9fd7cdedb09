"""Images that lie in files of their own, or in rows of a table: decoded by threads, a batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.errors import UserError
from fcdm.images.crop import Source, Unreadable, pillow_settings, read_whole, square_of
from fcdm.images.image_stream import Images
from fcdm.images.listing import files_sha256, names_checksum

LOSSY = (".jpg", ".jpeg")


class PictureFiles(Images):
    """Pictures by name. Their size is the first one's; only `pixels` asks the others to have it too."""

    channels = 3
    how = "picture files"

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        file_of: Callable[[int], Source] | None = None,
        workers: int = 4,
        notes: tuple[str, ...] = (),
        checksum: str | None = None,
    ) -> None:
        """names: below `path`, at least one; null for `file_of`: each is a file's.

        file_of: image number -> its bytes, where the names are of rows of tables (`<file>:<row>`).
        """
        self.path, self.names, self.workers, self.notes = path, names, workers, notes
        self.count = len(names)
        self.turned: set[int] = set()
        self._in_tables = file_of is not None
        self._file_of: Callable[[int], Source] = file_of or (lambda number: path / names[number])
        self._checksum = checksum
        self._open = contextlib.ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._size: tuple[int, int] | None = None

    @property
    def height(self) -> int:  # type: ignore[override]
        return self._first_size[0]

    @property
    def width(self) -> int:  # type: ignore[override]
        return self._first_size[1]

    @property
    def _first_size(self) -> tuple[int, int]:
        if self._size is None:
            with pillow_settings():
                height, width, _ = self._whole(0).shape
            self._size = height, width
        return self._size

    def pixels(self, first: int, last: int) -> NDArray[np.uint8]:
        wanted = (*self._first_size, self.channels)
        found = list(self._threads().map(self._whole, range(first, min(last, self.count))))
        for number, image in enumerate(found, first):
            if image.shape != wanted:
                sizes = [f"{height}x{width}" for height, width, _ in (wanted, image.shape)]
                raise UserError(
                    f"{self.path}: images of two sizes: {self.names[0]} is {sizes[0]} (height x width), "
                    f"{self.names[number]} is {sizes[1]}; samples are never resized: leave one size in the folder"
                )
        return np.stack(found)

    def _whole(self, number: int) -> NDArray[np.uint8]:
        try:
            return read_whole(self._file_of(number))
        except Unreadable as error:
            raise UserError(f"{self.name(number)} cannot be read ({error}): put a whole one in its place") from None

    def squares(self, numbers: Sequence[int], side: int, huge: bool = False) -> list[NDArray[np.uint8] | Unreadable]:
        def square(number: int) -> NDArray[np.uint8] | Unreadable:
            try:
                found = square_of(self._file_of(number), side, huge)
            except Unreadable as error:
                return error
            if found.turned:
                self.turned.add(number)
            return found.pixels

        return list(self._threads().map(square, numbers))

    def name(self, number: int) -> str:
        return str(self.path / self.names[number])

    def checksum(self) -> str:
        return self._checksum or names_checksum(self.names)

    def content(self) -> str:
        return files_sha256(self.path, list(dict.fromkeys(map(self._file_name, self.names))))

    def _file(self, number: int) -> Path:
        return self.path / self._file_name(self.names[number])

    def _file_name(self, name: str) -> str:
        return name.rpartition(":")[0] if self._in_tables else name

    def close(self) -> None:
        self._open.close()
        self._pool = None

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._open.enter_context(pillow_settings())
            self._pool = self._open.enter_context(ThreadPoolExecutor(self.workers, "decode"))
        return self._pool
