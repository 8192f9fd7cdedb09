"""The bundled default: scikit-learn's 1,797 handwritten digits of 8x8 pixels, split once and for all.

Torch-free, and read without importing scikit-learn, which takes longer (1.5 s) than all that reading does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcdm.errors import UserError

DIGITS_CHECKSUM = "74d87ac052082769e690e033978b7154d22e5ab4c5373aadb7cdda41c825db8c"
"""sha256 of the split in its order, see `split_checksum`: the identity of this data."""

RESOLUTIONS = (8, 16, 32)
_HELD_OUT = 0.2
_SPLIT_KEY = 20260309


@dataclass(frozen=True, eq=False)
class DigitsSplit:
    """Images (N, 1, R, R) float32, -1 (paper) to 1 (ink); labels (N,) int64, 0 to 9; both shuffled."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    heldout_images: NDArray[np.float32]
    heldout_labels: NDArray[np.int64]
    checksum: str


def load_digits_split(resolution: int = 8) -> DigitsSplit:
    """1,438 digits to train on and 359 held out, at `resolution` 8, 16 or 32 pixels a side.

    Stratified: of each class a fifth (rounded) is held out. The original levels 0..16 become x / 8 - 1; 16
    and 32 pixels are bilinear enlargements (half-pixel centres: torch's `align_corners=False`), made after
    the split. UserError for another resolution, or when the installed scikit-learn's digits are not these.
    """
    if resolution not in RESOLUTIONS:
        raise UserError(f"digits come at 8, 16 or 32 pixels, not {resolution}: set resolution=8, 16 or 32")
    images, labels = _bundled()
    train, heldout = split_indices(labels)
    checksum = split_checksum(images[train], labels[train], images[heldout], labels[heldout])
    if checksum != DIGITS_CHECKSUM:
        raise UserError(
            f"scikit-learn's digits are not the ones this project knows (sha256 {checksum[:8]}, expected "
            f"{DIGITS_CHECKSUM[:8]}): reinstall it with `pip install --force-reinstall scikit-learn`"
        )
    return DigitsSplit(
        train_images=_scale(images[train], resolution),
        train_labels=labels[train].astype(np.int64),
        heldout_images=_scale(images[heldout], resolution),
        heldout_labels=labels[heldout].astype(np.int64),
        checksum=checksum,
    )


def _bundled() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 8, 8), levels 0 to 16, and labels (N,), as the installed scikit-learn has them."""
    package = find_spec("sklearn")
    table = Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if table is None or not table.exists():  # another layout than 1.0 to 1.7 have
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    rows = np.loadtxt(table, delimiter=",").astype(np.uint8)
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]


def split_indices(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions (train, held out) of `labels` (N,): shuffled, and a rounded fifth of each class held out.

    Sorted by raw Philox output: numpy promises that stream for ever, but not what `Generator.permutation`
    does. One draw chooses and another shuffles, so that both parts are mixed from their first image on.
    """
    raw = np.random.Philox(key=_SPLIT_KEY).random_raw(2 * len(labels)).reshape(2, -1)
    choice, order = np.argsort(raw, axis=1, kind="stable")
    heldout = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = choice[labels[choice] == label]
        heldout[members[: round(_HELD_OUT * len(members))]] = True
    return order[~heldout[order]], order[heldout[order]]


def split_checksum(*arrays: NDArray[np.uint8]) -> str:
    """sha256 over train images and labels, held-out images and labels: uint8 values, in the split's order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _scale(images: NDArray[np.uint8], resolution: int) -> NDArray[np.float32]:
    """(N, 8, 8) levels 0..16 -> (N, 1, resolution, resolution) in [-1, 1]."""
    scaled: NDArray[np.float32] = (images / 8 - 1).astype(np.float32)
    if resolution > 8:
        # Rows and columns alike; exact in float32, since levels and weights are small multiples of 1/8.
        weights = _bilinear(8, resolution)
        scaled = np.einsum("ri,nij,sj->nrs", weights, scaled, weights, optimize=True)
    return scaled[:, None]


def _bilinear(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) weights of linear interpolation between pixel centres, edges repeated."""
    centres = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    distance = np.abs(centres[:, None] - np.arange(source))
    weights: NDArray[np.float32] = np.clip(1 - distance, 0, None).astype(np.float32)
    return weights
