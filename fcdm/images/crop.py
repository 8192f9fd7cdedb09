"""From an image file of any kind to the square 8-bit picture that ImageNet models are trained on.

What ADM's loader does (arXiv 2105.05233, `guided_diffusion/image_datasets.py`), since every published number
stands on it: RGB by Pillow's conversion, alpha dropped, EXIF orientation ignored, the first frame of an animation,
halvings by box filter, then bicubic, then the centre. Torch-free.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fcdm.formatting import plural

_T = TypeVar("_T")
Source = Path | bytes | NDArray[np.uint8]
"""An image file, its bytes, or pixels (h, w, 1 or 3)."""

SMALLER = "say smaller=upscale to scale such images up, or a smaller resolution="
"""What to do about an image of fewer pixels than are wanted."""

LARGEST = 89_478_485
"""Pixels. Pillow's own limit for what may be a decompression bomb: 0.27 GB as RGB."""


class Unreadable(Exception):
    """Why an image cannot be used, in a few words."""


@dataclass(frozen=True)
class Square:
    """A square picture, and what became of the image on the way."""

    pixels: NDArray[Any]
    """(S, S, channels) uint8; or latents that were imported, as they were."""
    turned: bool
    """Whether the file carries an EXIF orientation, by which it was not turned."""
    scaled_up: bool
    """Whether it had fewer pixels than the picture has."""


@contextlib.contextmanager
def pillow_settings() -> Iterator[None]:
    """Pillow without its own limit and its warnings, while the block runs; to be entered once, around all threads.

    The limit is ours to set (`LARGEST`), and odd metadata is no news about a picture.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


ORIENTATION = 0x0112
"""EXIF's tag for how a picture is to be turned for showing; 1: as it is."""


def read_square(source: Source, size: int, huge: bool = False) -> NDArray[np.uint8]:
    """The centre (size, size, 3) of an image. Safe in threads; see `pillow_settings`.

    huge: take pictures of more than `LARGEST` pixels too. Raises Unreadable.
    """
    return square_of(source, size, huge).pixels


def square_of(source: Source, size: int, huge: bool = False, pad: int | None = None, upscale: bool = True) -> Square:
    """As `read_square`, with what became of the image.

    pad: by `padded` instead of the crop. upscale=False: Unreadable for an image with a side below `size`.
    """

    def square(image: Image.Image) -> Square:
        rgb, turned, small = _to_rgb(image), _is_turned(image), min(image.size) < size
        if pad is not None:
            return Square(padded(rgb, pad, size), turned, scaled_up=False)
        if small and not upscale:
            raise Unreadable(f"{image.width} x {image.height} pixels, and {size} x {size} are wanted: {SMALLER}")
        return Square(centre_crop(rgb, size, huge), turned, scaled_up=small)

    return _read(source, huge, square)


def read_whole(source: Source) -> NDArray[np.uint8]:
    """All of it, (height, width, 3), as it is. Safe in threads; see `pillow_settings`. Raises Unreadable."""
    return _read(source, None, lambda image: np.asarray(_to_rgb(image), dtype=np.uint8))


def _read(source: Source, huge: bool | None, take: Callable[[Image.Image], _T]) -> _T:
    try:
        if isinstance(source, np.ndarray):
            pixels = np.broadcast_to(source, (*source.shape[:2], 3))  # grey is repeated
            return take(Image.fromarray(np.ascontiguousarray(pixels)))
        data = source if isinstance(source, bytes) else source.read_bytes()
        if not data:
            raise Unreadable("the file is empty")
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size, "", huge)
            image.load()
            return take(image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("no image, or of an unknown format") from None
    except MemoryError:
        raise Unreadable("too large for this machine's memory") from None
    except Exception as error:  # Pillow's readers raise what they like on damaged bytes: OSError, struct.error, ...
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreadable(" ".join(reason.split())[:120] or type(error).__name__) from None


def centre_crop(image: Image.Image, size: int, huge: bool = False) -> NDArray[np.uint8]:
    """ADM's crop of an RGB image: (size, size, 3) uint8.

    Halved with a box filter while the shorter side is at least twice `size`, then brought to it by Pillow's bicubic,
    then cut out of the middle (odd rests leave one pixel more at the bottom and the right). Raises Unreadable for a
    strip so long that scaling its short side up would make it huge.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    _check_size(width, height, " once its short side is scaled", huge)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def padded(image: Image.Image, side: int, size: int) -> NDArray[np.uint8]:
    """An RGB image in the middle of a black square of `side` pixels, its blocks averaged to (size, size, 3) uint8.

    `side` is a multiple of `size`; averages are rounded to the nearest byte. Raises Unreadable for a larger image.
    """
    if wrong := why_unpadded(*image.size, side, size):
        raise Unreadable(wrong)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.reduce(side // size), dtype=np.uint8)


def why_unpadded(width: int, height: int, side: int, size: int) -> str | None:
    """What is wrong with an image for a black square of `side` pixels, of blocks for `size`; None: it stands in it."""
    if max(width, height) <= side:
        return None
    return f"{width} x {height} pixels, more than pad={side}: pad={next_side(max(width, height), size)} would hold it"


def next_side(side: int, size: int) -> int:
    """The least multiple of `size` that is no less than `side`."""
    return -(-side // size) * size


def turned_text(count: int) -> str:
    """What is told of images with an EXIF orientation."""
    return (
        f"{plural(count, 'image')} with an EXIF orientation: it is ignored, as in ADM's loader: all are taken as they "
        "are stored; turn the files first if that matters"
    )


def _is_turned(image: Image.Image) -> bool:
    """Of a loaded image: TIFF's Pillow has turned by then, and taken the tag away."""
    try:
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged metadata are no news about a picture
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits, which Pillow would clip to white instead of scaling. (Older versions call 16-bit PNGs "I".)
        values = np.asarray(image).astype(np.int64)
        if int(values.max(initial=0)) > 0xFFFF or int(values.min(initial=0)) < 0:
            raise Unreadable("integers of more than 16 bits per pixel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Unreadable("floating-point pixels, whose scale nobody knows")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_size(width: int, height: int, when: str, huge: bool | None) -> None:
    if width * height > LARGEST and not huge:
        takes = "" if huge is None else " (--huge takes it)"  # where there is such a word
        raise Unreadable(f"{width} x {height} pixels{when}: over Pillow's limit of {LARGEST:,}{takes}")
