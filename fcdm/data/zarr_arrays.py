"""Arrays of zarr, of formats 2 and 3: a group of `latents` and `labels`, or a path for each. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.data.image_folders import NONE
from fcdm.errors import UserError
from fcdm.paths import place

LATENTS, LABELS = "latents", "labels"
"""What the public FCDM calls its arrays."""
_MARKS = ("zarr.json", ".zgroup", ".zarray")


def is_zarr(path: Path) -> bool:
    """Whether a group or an array of zarr lies there."""
    return path.is_dir() and any((path / mark).exists() for mark in _MARKS)


def open_zarr(
    root: Path, labels: str | None
) -> tuple[Callable[[int, int], NDArray[Any]], tuple[int, ...], np.dtype[Any], NDArray[Any] | str]:
    """Reader of rows, shape and type of the latents at `root` (a group, or the array itself), and the labels.

    labels: the path of their array, a .npy, `none`, or null: `labels` of the group. Raises UserError.
    """
    zarr = _library()
    found = _opened(zarr, root)
    array, inside = (
        (found, None) if isinstance(found, zarr.Array) else (_member(found, LATENTS), _member(found, LABELS))
    )
    if array is None:
        there = ", ".join(sorted(found.keys())[:6]) or "nothing"
        raise UserError(f"latents={root} has no array `{LATENTS}`, but {there}: say latents={root}/<the array>")
    if labels == NONE:
        numbers: NDArray[Any] | str = NONE
    elif labels is not None:
        numbers = _numbers(zarr, place(labels))
    elif inside is not None:
        numbers = np.asarray(inside[:])
    else:
        raise UserError(f"latents={root} has no array `{LABELS}`: say labels=<its path>, or labels=none (one class)")

    def rows(first: int, last: int) -> NDArray[Any]:
        try:
            return np.asarray(array[first:last])
        except Exception as error:  # whatever its codecs make of a damaged chunk
            raise UserError(f"{root}: rows {first:,} to {last:,} cannot be read ({_line(error)})") from None

    return rows, tuple(array.shape), np.dtype(array.dtype), numbers


def _numbers(zarr: Any, path: Path) -> NDArray[Any]:
    if path.suffix == ".npy" and path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    if not is_zarr(path):
        raise UserError(f"labels={path}: the path of a zarr array or of a .npy is wanted")
    found = _opened(zarr, path)
    if not isinstance(found, zarr.Array):
        raise UserError(f"labels={path} is a group of zarr: say labels={path}/<the array>")
    return np.asarray(found[:])


def _member(group: Any, name: str) -> Any:
    """The array of that name; null where there is none."""
    return group[name] if name in group and hasattr(group[name], "shape") else None


def _opened(zarr: Any, path: Path) -> Any:
    try:
        return zarr.open(path, mode="r")
    except Exception as error:  # whatever it makes of damaged metadata
        raise UserError(f"{path} cannot be read as zarr ({_line(error)})") from None


def _library() -> Any:
    try:
        import zarr
    except ImportError:
        raise UserError("reading zarr needs the package zarr: pip install 'fcdm[zarr]'") from None
    return zarr


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
