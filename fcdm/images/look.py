"""A look at the first images of a source, for the mistakes that give numbers without a word."""

from __future__ import annotations

import numpy as np

from fcdm.images.arrays import ImageArray
from fcdm.images.image_stream import Images
from fcdm.images.picture_files import LOSSY, PictureFiles

LOOKED = 64
"""Images; further ones cost a pass over the file."""


def notes_on(images: Images, grey_reference: bool | None = None) -> list[str]:
    """What a person should know of samples, one line each. grey_reference: of what they are compared with, if known."""
    pixels = images.pixels(0, min(LOOKED, images.count))
    some = f"the first {len(pixels):,} images" if len(pixels) < images.count else f"all {len(pixels):,} images"
    notes = []
    floats = isinstance(images, ImageArray) and images.range is not None
    if pixels.max() <= 1:
        told = "black" if not pixels.max() else "0 or 1: were they floats from 0 to 1 that were cut to bytes?"
        notes.append(f"{images.path}: every pixel of {some} is {told} (white is 255)")
    elif floats and isinstance(images, ImageArray) and images.range == "-1..1" and pixels.min() >= 127:
        notes.append(f"{images.path}: no value of {some} is below 0: is it range=0..1?")
    if len(pixels) > 1 and (pixels == pixels[0]).all():
        notes.append(f"{images.path}: {some} are all the same")
    if grey_reference is False and pixels.max() > 1 and is_grey(pixels):
        notes.append(f"{images.path}: {some} are grey, and the reference's are not")
    if isinstance(images, PictureFiles) and any(name.lower().endswith(LOSSY) for name in images.names):
        notes.append(f"{images.path} holds JPEGs: published metrics are of images that no lossy format has touched")
    return notes


def is_grey(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bool:
    """Whether images (n, h, w, 1 or 3) have no colour."""
    return bool((pixels == pixels[..., :1]).all())
