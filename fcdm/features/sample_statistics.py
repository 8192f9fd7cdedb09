"""Images as they come -> FID, sFID, Inception Score, kernel distance, precision and recall, in one streaming pass.

`SampleStatistics` is what stands between batches: it can be saved, restored and merged with other ranks'. No
image is kept. Kernel distance, precision and recall need features side by side, so those of the first 50,000 samples
are kept, in float32: 410 MB of Inception's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError
from fcdm.features import Extractor, Features
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance_of_moments
from fcdm.metrics.inception_score import SPLIT, InceptionScore
from fcdm.metrics.joined_states import joined, state_of
from fcdm.metrics.kernel_distance import kernel_distance
from fcdm.metrics.precision_recall import precision_recall

if TYPE_CHECKING:
    from fcdm.features.reference import Moments, Reference

KEEP = 50_000
PER_FEATURE = 10
"""A covariance of d features is told of at least so many images for each of them."""
GROUP = 2048
"""Rows that wait until covariances take them in: an update of 2,048 x 2,048 numbers costs the same for one row."""


class RealMoments(Protocol):
    """What Fréchet distances are taken to."""

    @property
    def pool(self) -> Moments: ...

    @property
    def spatial(self) -> Moments | None: ...


class SampleStatistics:
    """All that the metrics need to know of the samples seen so far; knows nothing of who extracted the features.

    Samples have numbers: the order of the Inception Score's splits, and which are kept for precision and recall.
    The same batches in the same order give the same bits, also when `state` was saved and restored between any
    two of them; another order or another cut into batches and ranks moves the last bits.
    """

    def __init__(
        self,
        dim: int,
        spatial_dim: int | None = None,
        classes: int | None = None,
        keep: int = KEEP,
        split: int = SPLIT,
    ) -> None:
        self.pool = FeatureStatistics(dim)
        self.spatial = FeatureStatistics(spatial_dim) if spatial_dim else None
        self.inception = InceptionScore(classes, split) if classes else None
        self.keep = keep
        """Samples numbered below this have their features kept for precision and recall."""
        self.places: NDArray[np.int64] | None = None
        """Where sample i stands among the Inception Score's splits (`shuffled`); None: in order. In no `state`."""
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []  # (pool, spatial) rows
        self._kept: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # (numbers, pool features)

    @classmethod
    def for_extractor(cls, extractor: Extractor, keep: int = KEEP, split: int = SPLIT) -> SampleStatistics:
        """Empty statistics of what `extractor` gives."""
        return cls(extractor.dim, extractor.spatial_dim, extractor.classes, keep, split)

    def none_yet(self) -> SampleStatistics:
        """Empty statistics of the same features, which keep as many."""
        spatial = self.spatial.dim if self.spatial else None
        score = (self.inception.classes, self.keep, self.inception.split) if self.inception else (None, self.keep)
        return SampleStatistics(self.pool.dim, spatial, *score)

    @property
    def count(self) -> int:
        """Number of samples seen."""
        return self.pool.count + sum(len(rows) for rows, _ in self._waiting)

    def update(self, features: Features, first: int | None = None) -> None:
        """Add the features of the samples numbered `first`, first + 1, ... (by default: the next ones).

        UserError where one is not finite; nothing is added then.
        """
        start = self.count if first is None else first
        pool = _rows(features.pool, self.pool.dim, start)
        spatial = None
        if self.spatial is not None:
            spatial = _rows(features.spatial, self.spatial.dim, start)
        if self.inception is not None:
            if features.probabilities is None:
                raise ValueError("these features come without class probabilities")
            places = start if self.places is None else self.places[start : start + len(pool)]
            self.inception.update(features.probabilities, places)
        self._waiting.append((pool, spatial))
        if start < self.keep and len(pool):
            few = pool[: self.keep - start]
            self._kept.append((np.arange(start, start + len(few)), few))
        if sum(len(rows) for rows, _ in self._waiting) >= GROUP:
            self.flush()

    def flush(self) -> None:
        """Takes waiting rows into `pool` and `spatial`; moves their last bits if done between updates."""
        _take(self.pool, [rows for rows, _ in self._waiting])
        if self.spatial is not None:
            _take(self.spatial, [rows for _, rows in self._waiting if rows is not None])
        self._waiting = []

    def merge(self, other: SampleStatistics) -> None:
        """Add the samples that `other` has seen, of other numbers (of another rank, or another part)."""
        for mine, theirs in ((self.spatial, other.spatial), (self.inception, other.inception)):
            if (mine is None) != (theirs is None):
                raise ValueError("cannot merge the statistics of two extractors")
        if self.keep != other.keep:
            raise ValueError(f"cannot merge statistics that keep {other.keep} and {self.keep} features")
        self.flush()
        self.pool.merge(other.pool)
        if self.spatial is not None and other.spatial is not None:
            self.spatial.merge(other.spatial)
        if self.inception is not None and other.inception is not None:
            self.inception.merge(other.inception)
        self._waiting = list(other._waiting)
        self._kept += other._kept
        self.flush()

    def kept_features(self) -> NDArray[np.float32]:
        """(n, dim) features of the samples numbered below `keep`, in the order of their numbers."""
        numbers, features = self._gathered()
        order = np.argsort(numbers, kind="stable")
        if (np.diff(numbers[order]) == 0).any():
            raise ValueError("some samples were counted twice")
        return features[order]

    def _gathered(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if len(self._kept) != 1:
            numbers = np.concatenate([np.empty(0, np.int64), *(numbers for numbers, _ in self._kept)])
            empty = np.empty((0, self.pool.dim), np.float32)
            self._kept = [(numbers, np.concatenate([empty, *(rows for _, rows in self._kept)]))]
        return self._kept[0]

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything needed to go on bit for bit, as arrays for `np.savez`.

        With Inception's features 100 MB, and 8 kB for each sample kept: up to 510 MB, so not every few seconds.
        """
        numbers, features = self._gathered()
        state = joined({"pool": self.pool.state()})
        state |= {"keep": np.array([self.keep], np.int64), "kept.numbers": numbers, "kept.features": features}
        state["waiting.pool"] = np.concatenate(
            [np.empty((0, self.pool.dim), np.float32), *(rows for rows, _ in self._waiting)]
        )
        if self.spatial is not None:
            state |= joined({"spatial": self.spatial.state()})
            state["waiting.spatial"] = np.concatenate(
                [np.empty((0, self.spatial.dim), np.float32), *(rows for _, rows in self._waiting if rows is not None)]
            )
        if self.inception is not None:
            state |= joined({"inception": self.inception.state()})
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> SampleStatistics:
        """The statistics that gave `state`."""
        pool = FeatureStatistics.from_state(state_of("pool", state))
        statistics = cls(pool.dim, keep=int(state["keep"][0]))
        statistics.pool = pool
        spatial, inception = state_of("spatial", state), state_of("inception", state)
        if spatial:
            statistics.spatial = FeatureStatistics.from_state(spatial)
        if inception:
            statistics.inception = InceptionScore.from_state(inception)
        waiting = np.array(state["waiting.pool"]), np.array(state["waiting.spatial"]) if spatial else None
        if len(waiting[0]):
            statistics._waiting = [waiting]
        statistics._kept = [(np.array(state["kept.numbers"]), np.array(state["kept.features"]))]
        return statistics

    def metrics(
        self,
        reference: RealMoments,
        reference_features: NDArray[np.float32] | None = None,
        device: str | torch.device = "cpu",
        progress: Callable[[int, int], None] | None = None,
        frechet: bool = True,
    ) -> dict[str, float]:
        """fid; sfid, inception_score, inception_score_std, kid, kid_se, precision, recall as far as there is what they
        need.

        `reference_features` are `reference.features(...)`: without them, or with `keep` 0, neither a kernel distance
        nor precision and recall. `device` is theirs, and so is `progress(blocks done, blocks in all)`, of each of the
        two; it may raise. frechet: whether Fréchet distances are taken. UserError below 2 samples, of
        `reference_features` below 4.
        """
        self.flush()
        found: dict[str, float] = {}
        if frechet:
            found["fid"] = self.distance_to(reference.pool)
            if self.spatial is not None and reference.spatial is not None:
                moments = self.spatial.mean, self.spatial.covariance
                found["sfid"] = frechet_distance_of_moments(*moments, *reference.spatial)
        if self.inception is not None:
            found["inception_score"], found["inception_score_std"] = self.inception.score()
        if reference_features is not None and self.keep:
            mine = self.kept_features()
            distance = kernel_distance(mine, reference_features, device=device, progress=progress)
            found |= {"kid": distance.value, "kid_se": distance.standard_error}
            shares = precision_recall(reference_features, mine, device=device, progress=progress)
            found |= {"precision": shares.precision, "recall": shares.recall}
        return found

    def distance_to(self, moments: Moments) -> float:
        """The Fréchet distance of all samples to a mean and a covariance, once `flush` was called."""
        return frechet_distance_of_moments(self.pool.mean, self.pool.covariance, *moments)

    def warnings(self) -> list[str]:
        """What a reader of the numbers should know, one line each."""
        told = []
        largest = max(self.pool.dim, self.spatial.dim if self.spatial else 0)
        if self.count <= largest:
            told.append(
                f"{self.count} images for {largest} features: the covariance is rank-deficient and Fréchet distances "
                "are biased upwards; compare equal counts only, and use 50,000 for published numbers"
            )
        return told + self.warnings_of_kept()

    def warnings_of_kept(self) -> list[str]:
        """The same of those numbers that are of kept features."""
        if not 0 < self.keep < self.count:
            return []
        return [f"kernel distance, precision and recall are of the first {self.keep} of {self.count} images"]


def enough_for_frechet(count: int | None, dim: int) -> bool:
    """Whether the covariance of `dim` features of so many images can be told: `PER_FEATURE`; None: of enough."""
    return count is None or count >= PER_FEATURE * dim


def check_resolution(height: int, width: int, reference: Reference) -> None:
    """UserError where samples of that size are of another than the reference's images."""
    theirs = reference.images
    if theirs and (theirs.height, theirs.width) != (height, width):
        raise UserError(
            f"{reference.path}: a reference of {theirs.height}x{theirs.width} pixels, but the samples are "
            f"{height}x{width}"
        )


def _rows(features: Tensor | None, dim: int, start: int) -> NDArray[np.float32]:
    """(n, dim) float32 on the CPU, finite."""
    if features is None or features.ndim != 2 or features.shape[1] != dim:
        raise ValueError(f"features have shape {None if features is None else tuple(features.shape)}, not (n, {dim})")
    rows: NDArray[np.float32] = features.detach().to("cpu", torch.float32).numpy()
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise UserError(
            f"features of {bad.sum()} of {len(rows)} samples are NaN or infinite (first: sample "
            f"{start + int(bad.argmax())}): the images or the extractor's weights are damaged; make both again"
        )
    return rows


def _take(statistics: FeatureStatistics, rows: list[NDArray[np.float32]]) -> None:
    if rows:
        statistics.update(np.concatenate(rows))
