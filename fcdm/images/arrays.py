"""Images in an .npz or .npy, read as a stream: ADM's sample and reference files hold up to 10 GB in one array."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcdm.atomic import describe_oserror
from fcdm.errors import UserError
from fcdm.images.crop import Unreadable, centre_crop
from fcdm.images.image_stream import Images, Unsaid
from fcdm.images.listing import content_sha256

KEYS = ("arr_0", "arr")
"""ADM's, and the public FCDM code's."""
LABELS = "arr_1"
KERAS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
"""Split -> its images and its labels in the .npz files of Keras, such as mnist.npz."""
RANGES = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
"""What floats may mean: black and white."""
LAYOUTS = ("NHWC", "NCHW")
BEYOND = 0.25
"""Of the range's width: by so much may a decoder's output leave it, to be clipped; more is another range."""


@dataclass(frozen=True)
class Header:
    """What a .npy says of itself before its numbers."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[np.generic]
    offset: int
    """Bytes before the first number."""


class ImageArray(Images):
    """The images of one array in a file."""

    def __init__(
        self, path: Path, key: str | None, header: Header, value_range: str | None = None, layout: str | None = None
    ) -> None:
        """key: the array's name in an .npz; None: a .npy. Raises UserError for what is no array of images."""
        self.path, self.key, self.header = path, key, header
        what = f"{path}: `{key}`" if key else f"{path}: the array"
        self.layout = _layout(what, header, layout)
        self.range = _range(what, header.dtype, value_range)
        count, *rest = header.shape
        height, width, channels = rest[1:] + rest[:1] if self.layout == "NCHW" else (*rest, 1)[:3]
        self.count, self.height, self.width, self.channels = count, height, width, channels
        self.how = f"{header.dtype}{f' {value_range}' if value_range else ''}, {self.layout}"
        self.said = ", ".join(word for word in (value_range, layout) if word)
        self._image = math.prod(rest) * header.dtype.itemsize
        self._open = contextlib.ExitStack()
        self._stream: IO[bytes] | None = None
        self._at = 0

    def pixels(self, first: int, last: int) -> NDArray[np.uint8]:
        last = min(last, self.count)
        with readable_file(self.path):
            stream = self._stream_at(first)
            raw = bytearray(stream.read((last - first) * self._image))
            self._at = last
        if len(raw) < (last - first) * self._image:
            raise _cut_short(self.path)
        stored = np.frombuffer(raw, self.header.dtype).reshape(last - first, *self.header.shape[1:])
        if self.layout == "NCHW":
            stored = stored.transpose(0, 2, 3, 1)
        pixels = stored if self.range is None else self._rounded(stored, first)
        return np.ascontiguousarray(pixels.reshape(len(pixels), self.height, self.width, self.channels), np.uint8)

    def _rounded(self, stored: NDArray[np.generic], first: int) -> NDArray[np.uint8]:
        """Floats to bytes by the rule of our own samples (`to_uint8`), clipped."""
        import torch

        from fcdm.metrics.rounding import to_uint8

        assert self.range is not None
        low, high = RANGES[self.range]
        values: NDArray[np.floating] = stored.astype(np.float64 if stored.dtype.itemsize == 8 else np.float32)
        beyond = BEYOND * (high - low)
        bad = ~((values >= low - beyond) & (values <= high + beyond))  # NaN too
        if bad.any():
            place = np.unravel_index(int(bad.argmax()), bad.shape)
            raise UserError(
                f"{self.name(first + int(place[0]))} has the value {float(values[place]):g}, and range={self.range} is "
                f"said: say the range that the values have ({', '.join(RANGES)}), or make the file again"
            )
        found: NDArray[np.uint8] = to_uint8(torch.from_numpy((values - low) / (high - low) * 2 - 1)).numpy()
        return found

    def squares(self, numbers: Sequence[int], side: int, huge: bool = False) -> list[NDArray[np.uint8] | Unreadable]:
        found: list[NDArray[np.uint8] | Unreadable] = []
        for first, last in _runs(numbers):
            stored = self.pixels(first, last)
            pixels = np.broadcast_to(stored, (*stored.shape[:3], 3))  # grey is repeated
            if (self.height, self.width) == (side, side):
                found += list(pixels)
            else:
                found += [centre_crop(Image.fromarray(np.ascontiguousarray(image)), side, huge) for image in pixels]
        return found

    def name(self, number: int) -> str:
        return f"{self.path}: image {number:,}"

    def checksum(self) -> str:
        return content_sha256(self.path)

    def content(self) -> str:
        return content_sha256(self.path)

    def close(self) -> None:
        self._open.close()
        self._stream = None

    def __del__(self) -> None:
        if hasattr(self, "_open"):  # not where it was refused
            self.close()

    def _stream_at(self, image: int) -> IO[bytes]:
        """The open stream, before that image. Raises OSError and what zipfile raises."""
        if self._stream is None or image < self._at:
            self.close()
            self._stream = _stream_of(self.path, self.key, self._open)
            self._stream.seek(self.header.offset)
            self._at = 0
        if image > self._at:
            self._stream.seek((image - self._at) * self._image, os.SEEK_CUR)
            self._at = image
        return self._stream


def array_names(path: Path) -> list[str]:
    """What the arrays of an .npz are called; none of a .npy. Raises UserError."""
    if is_npy(path):
        return []
    with readable_file(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def open_array(
    path: Path,
    value_range: str | None = None,
    layout: str | None = None,
    names: tuple[str, str] | None = None,
) -> ImageArray:
    """The images of an .npz (`arr_0`, `arr`, or its one array) or a .npy: (n, h, w, c), (n, c, h, w) or (n, h, w).

    Reads the header only, and unpickles nothing. value_range: what floats mean, one of RANGES. layout: NHWC or NCHW,
    where the shape does not tell. names: of the images and labels in an .npz, which has them, where they are others.
    Raises UserError for anything else, and where labels are not as many as images.
    """
    if is_npy(path):
        with readable_file(path), open(path, "rb") as file:
            header = _read_header(file)
            if path.stat().st_size < header.offset + math.prod(header.shape) * header.dtype.itemsize:
                raise _cut_short(path)
        return ImageArray(path, None, header, value_range, layout)
    with readable_file(path), zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        key, of_labels = names or (None, LABELS)
        key = key or next((key for key in KEYS if key in keys), keys[0] if len(keys) == 1 else None)
        if key is None:
            there = f"only {', '.join(keys[:6])}" if keys else "no array at all"
            raise UserError(
                f"{path}: no images in it: an array `arr_0` or `arr`, or one sole array, was expected, and there is "
                f"{there}"
            )
        header = _member_header(path, archive, key)
        labels = _member_header(path, archive, of_labels) if of_labels in keys and key != of_labels else None
    found = ImageArray(path, key, header, value_range, layout)
    if labels is not None and labels.shape[:1] != (found.count,):
        many = f"{labels.shape[0]:,} labels" if labels.shape else "a single number"
        raise UserError(
            f"{path}: {found.count:,} images in `{key}`, but {many} in `{of_labels}`: they belong together, so the "
            "file was put together wrongly or cut short: make it again"
        )
    return found


def read_labels(path: Path, name: str = LABELS) -> NDArray[np.generic] | None:
    """The array of that name in an .npz beside its images; None where there is none. Nothing is unpickled."""
    if is_npy(path):
        return None
    with readable_file(path), np.load(path, allow_pickle=False) as arrays:
        found: NDArray[np.generic] | None = arrays[name] if name in arrays and len(arrays.files) > 1 else None
    return found


def images_beside_statistics(path: Path) -> ImageArray | None:
    """The images `arr_0` or `arr` of a reference file; None for one that has neither."""
    with readable_file(path), zipfile.ZipFile(path) as archive:
        key = next((key for key in KEYS if f"{key}.npy" in archive.namelist()), None)
        return None if key is None else ImageArray(path, key, _member_header(path, archive, key))


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


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(from, to) of the stretches without a gap in ascending numbers."""
    first = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[first], numbers[place - 1] + 1
            first = place


def _layout(what: str, header: Header, said: str | None) -> str:
    """`NHWC`, `NCHW` or `NHW`. Raises UserError for what is no array of images."""
    shape, dtype = header.shape, header.dtype
    if said is not None and said not in LAYOUTS:
        raise UserError(f"layout={said} is not known: {' or '.join(LAYOUTS)}")
    if dtype.hasobject:
        raise UserError(f"{what} holds Python objects, which could run code when read: refused")
    wanted = "images are (n, height, width, 3 or 1), (n, 3 or 1, height, width) or (n, height, width)"
    if math.prod(shape) == 0:
        raise UserError(f"{what} has shape {shape}: there is no image in it")
    if header.by_columns:
        raise UserError(
            f"{what} of shape {shape} is stored by columns: images are stored row by row, so save "
            "numpy.ascontiguousarray(images)"
        )
    places = [name for name, place in (("NHWC", 3), ("NCHW", 1)) if len(shape) == 4 and shape[place] in (1, 3)]
    if len(shape) == 3 and shape[2] not in (1, 3) and said is None:
        if shape[0] == 3:
            raise UserError(
                f"{what} has shape {shape}, which is one image (channels, height, width) or three grey ones: save "
                "images[None] for the one, images[..., None] for the three"
            )
        return "NHW"
    if said is not None and len(shape) == 4 and said in places:
        return said
    if len(places) == 1 and said is None:
        return places[0]
    if len(places) == 2 and said is None:
        raise Unsaid(
            f"{what} has shape {shape}, which may be (n, height, width, channels) or (n, channels, height, width)",
            "say layout=NHWC or layout=NCHW",
            ("layout=NHWC",),
        )
    if len(shape) == 3 and said is None:
        raise UserError(f"{what} has shape {shape}: one image? {wanted}, so save images[None] for a single one")
    if said is not None and places:
        raise UserError(f"{what} has shape {shape}, which is not {said}: leave layout={said} away")
    alpha = ": save the first three of its four channels" if 4 in shape[1:2] + shape[3:] and len(shape) == 4 else ""
    raise UserError(f"{what} is {dtype} of shape {shape}: {wanted}{alpha}")


def _range(what: str, dtype: np.dtype[np.generic], said: str | None) -> str | None:
    """The range that floats are said to have; None for bytes. Raises UserError."""
    if said is not None and said not in RANGES:
        raise UserError(f"range={said} is not known: {', '.join(RANGES)}")
    if dtype == np.uint8:
        if said is not None:
            raise UserError(f"{what} is uint8, which is 0..255 always: leave range={said} away")
        return None
    if dtype.kind != "f":
        raise UserError(
            f"{what} is {dtype}: images are uint8 or floats; save "
            + (
                "images * numpy.uint8(255)"
                if dtype.kind == "b"
                else "images.astype(numpy.uint8), if its values are 0 to 255"
            )
        )
    if said is None:
        raise Unsaid(
            f"{what} is {dtype}, and floats do not say what is black and what is white",
            "say range=0..1 or range=-1..1 (or 0..255), or save uint8",
            ("range=0..1",),
        )
    return said


def _member_header(path: Path, archive: zipfile.ZipFile, key: str) -> Header:
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        header = _read_header(member)
    if not header.dtype.hasobject and info.file_size < header.offset + math.prod(header.shape) * header.dtype.itemsize:
        raise _cut_short(path)
    return header


def _stream_of(path: Path, key: str | None, stack: contextlib.ExitStack) -> IO[bytes]:
    if key is None:
        return stack.enter_context(open(path, "rb"))
    archive = stack.enter_context(zipfile.ZipFile(path))
    return stack.enter_context(archive.open(f"{key}.npy"))


def _cut_short(path: Path) -> UserError:
    return UserError(f"{path}: holds fewer images than its header says: copy or make it again")


def _read_header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f".npy version {version}")
    return Header(*found, member.tell())
