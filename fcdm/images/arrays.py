"""Images in an .npz or .npy, read as a stream: ADM's sample and reference files hold up to 10 GB in one array."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcdm.errors import UserError
from fcdm.images.crop import Unreadable, centre_crop
from fcdm.images.image_stream import Images, Unsaid
from fcdm.images.listing import content_sha256
from fcdm.images.row_stream import KEYS, Header, RowStream, is_npy, main_key, member_header, open_rows, readable_file

LABELS = "arr_1"
KERAS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
"""Split -> its images and its labels in the .npz files of Keras, such as mnist.npz."""
RANGES = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
"""What floats may mean: black and white."""
LAYOUTS = ("NHWC", "NCHW")
BEYOND = 0.25
"""Of the range's width: by so much may a decoder's output leave it, to be clipped; more is another range."""


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
        self._rows = RowStream(path, key, header)

    def pixels(self, first: int, last: int) -> NDArray[np.uint8]:
        stored = self._rows.rows(first, last)
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
        self._rows.close()


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
        return ImageArray(path, None, open_rows(path)[0].header, value_range, layout)
    with readable_file(path), zipfile.ZipFile(path) as archive:
        key, of_labels = names or (main_key(path, archive), LABELS)
        header = member_header(path, archive, key)
        has_labels = f"{of_labels}.npy" in archive.namelist() and key != of_labels
        labels = member_header(path, archive, of_labels) if has_labels else None
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
        return None if key is None else ImageArray(path, key, member_header(path, archive, key))


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
