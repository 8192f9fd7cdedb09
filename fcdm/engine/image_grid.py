"""The picture of the first samples."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

COLUMNS, ROWS = 10, 8
GRID = COLUMNS * ROWS
"""Samples in the picture."""
TILE = 32
"""Pixels: small images are enlarged so that a person sees them."""


def png(images: np.ndarray) -> bytes:
    """(n, C, side, side) uint8 -> a PNG, COLUMNS tiles a row, without gaps; a short last row is filled up."""
    count, channels, side, _ = images.shape
    rows, size = -(-count // COLUMNS), tile(side)
    factor = size // side
    tiles = np.zeros((rows * COLUMNS, channels, size, size), np.uint8)
    tiles[:count] = images.repeat(factor, axis=2).repeat(factor, axis=3)
    grid = tiles.reshape(rows, COLUMNS, channels, size, size)
    picture = grid.transpose(0, 3, 1, 4, 2).reshape(rows * size, COLUMNS * size, channels)
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if channels == 1 else picture[..., :3]).save(buffer, "PNG")
    return buffer.getvalue()


def tile(side: int) -> int:
    """Pixels a side of one picture in the grid: a multiple of `side`."""
    return side * max(1, TILE // side)
