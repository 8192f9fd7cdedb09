"""Writes a reference file: the statistics that generated images are compared with, and some real ones."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import describe_oserror, sync_folder, temporary_name
from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.sample_statistics import SampleStatistics


def write_reference(
    path: Path,
    statistics: SampleStatistics,
    extractor: Extractor,
    kept: Iterable[NDArray[np.uint8]],
    count: int,
    before: Callable[[Path], None] | None = None,
) -> None:
    """Writes the file in ADM's format, whole or not at all; the same content gives the same bytes.

    kept: the `count` images for precision and recall, (n, h, w, c) at a time. before: called with the whole file under
    its unfinished name, right before it takes its real one. UserError for statistics of fewer than 2 images.
    """
    if statistics.count < 2:
        raise UserError(f"{path}: a reference needs at least 2 images, there were {statistics.count}")
    temporary = path.with_name(temporary_name(path.name))
    try:
        with contextlib.suppress(FileExistsError):  # a file in the folder's place is told on opening
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as whole:
            _write_npz(whole, _arrays(statistics, extractor), kept, count)
            whole.flush()
            os.fsync(whole.fileno())
        if before:
            before(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise describe_oserror(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def kept_numbers(images: int, keep: int, seed: int = 0) -> list[int]:
    """Which of a stream of `images` are kept, in the file's order, each with the same chance whatever the order.

    (Folders come class by class.) Vitter 1985, algorithm R; known beforehand, for it looks at no image.
    """
    slots = list(range(min(images, keep)))
    raw = np.random.Philox(key=seed)  # its raw stream is the same with every numpy
    for first in range(keep, images, 1 << 16):
        numbers = np.arange(first, min(first + (1 << 16), images), dtype=np.uint64)
        places = raw.random_raw(len(numbers)) % (numbers + np.uint64(1))
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            if place < keep:
                slots[place] = number
    return slots


def _arrays(statistics: SampleStatistics, extractor: Extractor) -> Iterator[tuple[str, NDArray[Any]]]:
    statistics.flush()
    yield "mu", statistics.pool.mean
    yield "sigma", statistics.pool.covariance
    if statistics.spatial is not None:
        yield "mu_s", statistics.spatial.mean
        yield "sigma_s", statistics.spatial.covariance
    yield "count", np.array(statistics.count)
    yield "extractor", np.array(extractor.id)


def _write_npz(
    file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]], kept: Iterable[NDArray[np.uint8]], count: int
) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo of our own has a fixed date: the same content, the same checksum.
        for key, array in arrays:
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        if not count:
            return
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
            shape: tuple[int, ...] = ()
            for images in kept:
                if not shape:
                    shape = images.shape[1:]
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(np.ascontiguousarray(images).data)
