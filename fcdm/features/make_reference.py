"""Makes a reference file: images in, the statistics that generated ones are compared with out."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fcdm.atomic import describe_oserror, sync_folder, temporary_name
from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.reference import KEEP
from fcdm.features.sample_statistics import SampleStatistics


def write_reference(
    path: str | Path,
    images: Iterable[Tensor],
    extractor: Extractor,
    keep: int = KEEP,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Writes the reference file of `images`, batches (n, c, h, w) uint8 of one size; returns warnings.

    One pass, in bounded memory; the file is there whole or not at all, and the same images in the same batches
    give the same bytes on one machine. Statistics are of all images, in float64. Of the images, `keep` are kept, each
    with the same chance whatever the order (folders come class by class). `progress(images done)`.
    UserError for fewer than 2 images, for images of two sizes, and for features that are not finite.
    """
    path = Path(path)
    statistics = SampleStatistics.for_extractor(extractor, keep=0)
    scratch = path.with_name(temporary_name(path.name + "-images"))
    temporary = path.with_name(temporary_name(path.name))
    try:
        with contextlib.suppress(FileExistsError):  # a file in the folder's place is told on opening
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "x+b") as file:
            kept = _Reservoir(file, keep, seed)
            for batch in images:
                kept.add(batch)
                statistics.update(extractor.features(batch))
                if progress:
                    progress(statistics.count)
            if statistics.count < 2:
                raise UserError(f"{path}: a reference needs at least 2 images, there were {statistics.count}")
            with open(temporary, "xb") as whole:
                _write_npz(whole, _arrays(statistics, extractor), kept)
                whole.flush()
                os.fsync(whole.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise describe_oserror(error, path) from error
    finally:
        for leftover in (scratch, temporary):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
    return statistics.warnings()


def _arrays(statistics: SampleStatistics, extractor: Extractor) -> Iterator[tuple[str, NDArray[Any]]]:
    statistics.flush()
    yield "mu", statistics.pool.mean
    yield "sigma", statistics.pool.covariance
    if statistics.spatial is not None:
        yield "mu_s", statistics.spatial.mean
        yield "sigma_s", statistics.spatial.covariance
    yield "count", np.array(statistics.count)
    yield "extractor", np.array(extractor.id)


def _write_npz(file: IO[bytes], arrays: Iterable[tuple[str, NDArray[Any]]], kept: _Reservoir) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo of our own has a fixed date: the same content, the same checksum.
        for key, array in arrays:
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        if kept.count:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (kept.count, *kept.shape)}
                np.lib.format.write_array_header_1_0(member, header)
                kept.file.seek(0)
                shutil.copyfileobj(kept.file, member, 1 << 20)


class _Reservoir:
    """Keeps `size` of a stream of images in a file, each with the same chance (Vitter 1985, algorithm R)."""

    def __init__(self, file: IO[bytes], size: int, seed: int) -> None:
        self.file, self.size = file, size
        self.seen = 0
        self.shape: tuple[int, ...] = ()  # (h, w, c)
        self._raw = np.random.Philox(key=seed)  # its raw stream is the same with every numpy

    @property
    def count(self) -> int:
        return min(self.seen, self.size)

    def add(self, images: Tensor) -> None:
        """Offers images (n, c, h, w) uint8."""
        batch = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.shape = self.shape or batch.shape[1:]
        if batch.shape[1:] != self.shape:
            raise UserError(f"a reference's images have one size: (h, w, c) {batch.shape[1:]} came after {self.shape}")
        for image in batch:
            slot = self.seen
            if slot >= self.size:
                slot = int(self._raw.random_raw()) % (self.seen + 1)
            self.seen += 1
            if slot < self.size:
                self.file.seek(slot * image.nbytes)
                self.file.write(image.tobytes())
