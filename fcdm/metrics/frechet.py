"""The Fréchet distance between two sets of features, from streamed means and covariances, in float64.

FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6) is this distance (Dowson & Landau 1982) between Gaussians
fitted to the features of real and of generated images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from fcdm.errors import UserError

Array = NDArray[np.float64]


class FeatureStatistics:
    """Mean and covariance of `dim` features, gathered batch by batch.

    Each batch is centred on its own mean and then merged (the pairwise update of Chan, Golub & LeVeque 1983),
    so that features with a mean far above their spread lose no digits. The same batches in the same order
    give the same bits, also when `state` was saved and restored between any two of them; another cut into
    batches moves the last bits.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        """Number of samples n."""
        self.mean: Array = np.zeros(dim)
        """(dim,) mean of each feature."""
        self._scatter: Array = np.zeros((dim, dim))  # sum over samples of (x - mean)(x - mean)^T

    @property
    def dim(self) -> int:
        """Number of features d."""
        return len(self.mean)

    @property
    def covariance(self) -> Array:
        """(dim, dim) unbiased covariance (divisor n - 1, as in the public FID codes); UserError for n < 2."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 samples, got {self.count}: ask for more samples")
        return self._scatter / (self.count - 1)

    def update(self, features: torch.Tensor | NDArray[Any]) -> None:
        """Add the samples of `features` (n, dim), n >= 0; UserError where one is not finite."""
        if isinstance(features, torch.Tensor):
            features = features.detach().to("cpu", torch.float64).numpy()
        batch = np.asarray(features, np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"features have shape {batch.shape}, expected (n, {self.dim})")
        finite = np.isfinite(batch).all(axis=1)
        if not finite.all():
            raise UserError(
                f"features of {(~finite).sum()} of {len(batch)} samples are NaN or infinite (first: sample "
                f"{self.count + int(finite.argmin())}): the images or the extractor's weights are damaged; "
                "make both again"
            )
        if len(batch) == 0:
            return
        mean = batch.mean(axis=0)
        centred = batch - mean
        self._merge(len(batch), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Add the samples that `other` has seen (of another rank, or another part of the data)."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge statistics of {other.dim} features into those of {self.dim}")
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    def _merge(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._scatter = self._scatter + scatter + np.outer(shift, shift) * (self.count / total * count)
        self.count = total

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything needed to go on bit for bit: `count` (1,) int64, `mean` (dim,), `scatter` (dim, dim)."""
        return {
            "count": np.array([self.count], np.int64),
            "mean": self.mean.copy(),
            "scatter": self._scatter.copy(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> FeatureStatistics:
        """The statistics that gave `state`."""
        statistics = cls(len(state["mean"]))
        if state["scatter"].shape != statistics._scatter.shape:
            raise ValueError(f"a scatter of shape {state['scatter'].shape} for {statistics.dim} features")
        statistics.count = int(state["count"][0])
        statistics.mean = np.array(state["mean"], np.float64)
        statistics._scatter = np.array(state["scatter"], np.float64)
        return statistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Fréchet distance between the Gaussians fitted to `a` and `b`; UserError under 2 samples each.

    Below dim + 1 samples a covariance is singular: the distance is still right, but biased upwards as a
    measure of the model (so compare equal sample counts only).
    """
    return frechet_distance_of_moments(a.mean, a.covariance, b.mean, b.covariance)


def frechet_distance_of_moments(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of means (d,) and covariances A, B (d, d), all float64.

    tr (A B)^(1/2) is the sum of the singular values of F^T G for any factors A = F F^T, B = G G^T, because
    A B = F (F^T G G^T) has the eigenvalues of (F^T G)(F^T G)^T. No square root of a matrix is formed, nothing
    complex appears, and zero eigenvalues stay zero: taking roots of the eigenvalues of A B instead turns
    their rounding errors of 1e-16 into 1e-8 each.
    """
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features of two extractors: {len(mean_a)} and {len(mean_b)} of them")
    distance = float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b))
    if not np.isfinite(distance):
        raise UserError("the features' means or variances are NaN or infinite: no Fréchet distance exists")
    cross = _factor(cov_a).T @ _factor(cov_b)
    # Rounding may leave -1e-15 where the two are the same; a distance is never negative.
    return max(0.0, distance - 2 * float(np.linalg.svd(cross, compute_uv=False).sum()))


def _factor(covariance: Array) -> Array:
    """F (d, rank) with F F^T = `covariance` (d, d), symmetric positive semi-definite.

    Cholesky with complete pivoting (LAPACK dpstrf; Higham 1990): stops at the numerical rank, where what
    is left is rounding (below d x unit roundoff x the largest variance).
    """
    lower, pivots, rank, info = lapack.dpstrf(covariance, lower=1)
    if info < 0:
        raise ValueError(f"dpstrf refuses its argument {-info}")
    factor: Array = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]  # pivots count from 1
    return factor


def resampling_floor(features: NDArray[np.floating], count: int, draws: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the Fréchet distance of `count` real samples against all of them.

    `features` (N, d) of the real images; each of `draws` sets takes `count` rows with replacement. This is
    what a perfect memory of these N images would score with `count` samples: a distance near it is noise.
    The standard deviation is that of one draw (divisor draws - 1). The same numbers with every numpy: indices
    come from the raw Philox stream, which unlike `Generator`'s methods is frozen across versions.
    """
    if count < 2 or draws < 2:
        raise UserError(f"a floor needs at least 2 samples and 2 draws, got {count} and {draws}")
    size, dim = features.shape
    reference = FeatureStatistics(dim)
    reference.update(features)
    raw = np.random.Philox(key=seed).random_raw(draws * count).reshape(draws, count)
    distances = []
    for rows in raw % np.uint64(size):  # the bias of the remainder is size / 2^64
        drawn = FeatureStatistics(dim)
        drawn.update(features[rows])
        distances.append(frechet_distance(drawn, reference))
    return float(np.mean(distances)), float(np.std(distances, ddof=1))
