"""Reference files in ADM's format: what generated images are compared with.

An .npz with `mu` (d,) and `sigma` (d, d) of the features that FID is taken over, `mu_s` and `sigma_s` of
those of sFID, and `arr_0`, images (n, h, w, 3) uint8 for precision and recall. Ours say two things more:
`count`, of how many images the statistics are, and `extractor`, whose features they are of. ADM's published files
(VIRTUAL_imagenet256_labeled.npz, VIRTUAL_imagenet512.npz) are read as they are, and ADM's evaluator reads ours.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import write_atomic
from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.hashing import known_sha256
from fcdm.images.arrays import ImageArray, images_beside_statistics
from fcdm.images.row_stream import readable_file

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
    images: ImageArray | None
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
        return known_sha256(self.path)

    def check_extractor(self, extractor: Extractor) -> None:
        """UserError where these statistics are of another extractor's features."""
        if self.extractor not in (None, extractor.id):
            raise UserError(
                f"{self.path}: made with {self.extractor}, but the images are evaluated with {extractor.id}: make the "
                "reference again, or evaluate with its extractor"
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
    images = images_beside_statistics(path)
    with readable_file(path), np.load(path, allow_pickle=False) as arrays:
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
