"""What every source of images gives, whatever it is made of: (n, c, h, w) uint8, as they are or cropped to squares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcdm.errors import UserError
from fcdm.images.crop import Unreadable

if TYPE_CHECKING:
    from torch import Tensor


class Unsaid(UserError):
    """Images that cannot be read without a word of the user's, or not here at all."""

    def __init__(self, what: str, remedy: str, words: tuple[str, ...] = ()) -> None:
        """what: what is there. remedy: what to do about samples. words: what `prepare reference` would need."""
        super().__init__(f"{what}: {remedy}")
        self.what, self.words = what, words


class Images(ABC):
    """`count` images in a fixed order. Nothing is read before it is asked for; `with images:` closes what it opened."""

    path: Path
    count: int
    height: int
    width: int
    channels: int
    """1 or 3."""
    how: str
    """As what they are read, for people: `uint8, NHWC`."""
    said: str = ""
    """What a user had to say of them (`-1..1, NCHW`): another reading would be other images."""
    notes: tuple[str, ...] = ()
    """What a person should know of them."""
    turned: frozenset[int] | set[int] = frozenset()
    """Of those that `squares` has read, the numbers of files with an EXIF orientation, which is ignored."""

    @abstractmethod
    def pixels(self, first: int, last: int) -> NDArray[np.uint8]:
        """Images first..last-1, (n, h, w, c) uint8. Ascending calls are read as one stream. Raises UserError."""

    @abstractmethod
    def squares(self, numbers: Sequence[int], side: int, huge: bool = False) -> list[NDArray[np.uint8] | Unreadable]:
        """The images so numbered, ascending, by ADM's crop: (side, side, 3) each, or why one cannot be read."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Where an image is, for messages."""

    @abstractmethod
    def checksum(self) -> str:
        """sha256 that tells these images from others without reading the pixels of a folder's."""

    @abstractmethod
    def content(self) -> str:
        """sha256 of names and bytes, remembered while no file's size or time changes. Raises UserError."""

    def stamp(self, number: int) -> tuple[int, int]:
        """Size and time (ns) of the file that an image lies in, of which a change tells; (-1, -1): it is gone."""
        try:
            status = self._file(number).stat()
        except OSError:
            return -1, -1
        return status.st_size, status.st_mtime_ns

    def _file(self, number: int) -> Path:
        return self.path

    @abstractmethod
    def close(self) -> None:
        """Gives back files and threads; what is read later opens them again."""

    def read(self, first: int, last: int) -> Tensor:
        """Images first..last-1, (n, c, h, w) uint8. Raises UserError."""
        import torch

        return torch.from_numpy(self.pixels(first, last)).permute(0, 3, 1, 2).contiguous()

    def batches(self, size: int) -> Iterator[Tensor]:
        """All of them in order, (up to `size`, c, h, w) uint8 at a time."""
        with self:
            for start in range(0, self.count, size):
                yield self.read(start, min(start + size, self.count))

    @property
    def told(self) -> str:
        """`50,000 images of 256x256x3 (uint8, NHWC)`."""
        return f"{self.count:,} images of {self.height}x{self.width}x{self.channels} ({self.how})"

    def __enter__(self) -> Images:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
