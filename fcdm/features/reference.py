"""Reference files in ADM's format: what generated images are compared with.

An .npz with `mu` (d,) and `sigma` (d, d) of the features that FID is taken over, `mu_s` and `sigma_s` of
those of sFID, and `arr_0`, images (n, h, w, 3) uint8 for precision and recall. Ours say two things more:
`count`, of how many images the statistics are, and `extractor`, whose features they are of. ADM's published files
(VIRTUAL_imagenet256_labeled.npz, VIRTUAL_imagenet512.npz) are read as they are, and ADM's evaluator reads ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.image_file import ImageFile, peek_images, readable_npz
from fcdm.features.judging import SampleStatistics
from fcdm.features.weights import sha256
from fcdm.runs.atomic import describe_oserror, sync_folder, temporary_name, write_atomic

KEEP = 10_000
"""Images for precision and recall, as in VIRTUAL_imagenet256_labeled.npz."""
Array = NDArray[np.float64]
Moments = tuple[Array, Array]
"""Mean (d,) and covariance (d, d)."""


@dataclass(frozen=True)
class Reference:
    """A reference file's statistics; its images stay on the disk."""

    path: Path
    pool: Moments
    spatial: Moments | None
    images: ImageFile | None
    count: int | None
    """Of how many images the statistics are; ADM's files do not say."""
    extractor: str | None
    """The extractor's id; ADM's files do not say (theirs is Inception)."""

    @property
    def resolution(self) -> int | None:
        """Side of the images in pixels; None without images."""
        return self.images.height if self.images else None

    @property
    def sha256(self) -> str:
        """Of the whole file, 64 hex digits; part of a protocol's identity."""
        return sha256(self.path)

    def check_extractor(self, extractor: Extractor) -> None:
        """UserError where these statistics are of another extractor's features."""
        if self.extractor not in (None, extractor.id):
            raise UserError(
                f"{self.path}: made with {self.extractor}, but the images are judged with {extractor.id}: make the "
                "reference again, or judge with its extractor"
            )
        if len(self.pool[0]) != extractor.dim:
            raise UserError(
                f"{self.path}: statistics of {len(self.pool[0])} features, but {extractor.id} has {extractor.dim}"
            )
        if self.spatial and extractor.spatial_dim and len(self.spatial[0]) != extractor.spatial_dim:
            raise UserError(
                f"{self.path}: sFID statistics of {len(self.spatial[0])} features, but {extractor.id} has "
                f"{extractor.spatial_dim}"
            )

    def features(
        self, extractor: Extractor, batch: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32] | None:
        """Features (n, d) of the images, for precision and recall; None without images.

        Kept beside the file (`NAME.features-EXTRACTOR.npz`, 82 MB for 10,000 of Inception's) and taken from
        there the next time, unless file or extractor have changed. A folder that cannot be written to is no
        error. `progress(images done, images in all)`.
        """
        if self.images is None:
            return None
        beside = self.path.with_name(f"{self.path.stem}.features-{extractor.id}.npz")
        made = self._kept_features(beside, extractor)
        if made is not None:
            return made
        parts: list[NDArray[np.float32]] = []
        done = 0
        for images in self.images.batches(batch):
            parts.append(extractor(images).cpu().numpy())
            done += len(images)
            if progress:
                progress(done, self.images.count)
        made = np.concatenate(parts)
        buffer = io.BytesIO()
        np.savez(buffer, features=made, reference=np.array(self.sha256), extractor=np.array(extractor.id))
        with contextlib.suppress(UserError):
            write_atomic(beside, buffer.getvalue())
        return made

    def _kept_features(self, path: Path, extractor: Extractor) -> NDArray[np.float32] | None:
        try:
            with np.load(path, allow_pickle=False) as kept:
                of = str(kept["reference"]), str(kept["extractor"])
                features: NDArray[np.float32] = kept["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return features if of == (self.sha256, extractor.id) else None


def read_reference(path: str | Path, resolution: int | None = None) -> Reference:
    """The reference file `path`; nothing in it is unpickled and no image is read.

    UserError for a file that is not there or damaged, arrays of wrong shapes, numbers that are not finite, and
    images of another side than `resolution`.
    """
    path = Path(path)
    images = peek_images(path)
    with readable_npz(path), np.load(path, allow_pickle=False) as arrays:
        pool, spatial = _moments(path, arrays, "mu", "sigma"), _moments(path, arrays, "mu_s", "sigma_s")
        count = int(arrays["count"]) if "count" in arrays else None
        extractor = str(arrays["extractor"]) if "extractor" in arrays else None
    if pool is None:
        raise UserError(
            f"{path}: no reference statistics in it (`mu` and `sigma`): make them from its images with "
            "`python -m fcdm.prepare reference`"
        )
    if images and resolution and (images.height, images.width) != (resolution, resolution):
        raise UserError(
            f"{path}: a reference of {images.height}x{images.width} pixels, but {resolution}x{resolution} is asked for"
        )
    return Reference(path, pool, spatial, images, count, extractor)


def _moments(path: Path, arrays: Any, mean_key: str, covariance_key: str) -> Moments | None:
    if mean_key not in arrays and covariance_key not in arrays:
        return None
    if mean_key not in arrays or covariance_key not in arrays:
        raise UserError(f"{path}: `{mean_key}` and `{covariance_key}` go together, and one is missing")
    mean, covariance = arrays[mean_key], arrays[covariance_key]
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or mean.dtype.kind != "f":
        raise UserError(
            f"{path}: `{mean_key}` has shape {mean.shape} and `{covariance_key}` {covariance.shape}: "
            "(d,) and (d, d) floats were expected"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: `{mean_key}` or `{covariance_key}` has NaN or infinities: make the file again")
    return mean.astype(np.float64), covariance.astype(np.float64)


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
