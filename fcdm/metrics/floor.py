"""How near zero a Fréchet distance can get: real data against itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcdm.errors import UserError
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance


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
