"""Our Fréchet distance against the public FID codes' formula with scipy.linalg.sqrtm, in one run.

    OMP_NUM_THREADS=1 python benchmarks/frechet.py [--dims 64 512 2048]

Covariances of correlated Gaussian features, three samples per dimension. Times are the best of `repeats`
(one at 2048, where sqrtm takes 20 s).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import scipy
from scipy.linalg import sqrtm

from fcdm.metrics.frechet import Array, frechet_distance_of_moments


def with_sqrtm(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """Heusel et al. 2017, eq. 6, term by term."""
    root = np.trace(sqrtm(cov_a @ cov_b)).real
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def best_of(repeats: int, call: Callable[[], float]) -> tuple[float, float]:
    """(seconds, value)"""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), value


def moments(dim: int, seed: int) -> tuple[Array, Array]:
    """Mean (dim,) and covariance (dim, dim) of 3 dim samples."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3 * dim, dim)) @ rng.normal(size=(dim, dim)) / dim**0.5 + rng.normal(size=dim)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 512, 2048])
    dims = parser.parse_args().dims
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, {platform.processor() or platform.machine()}")
    print(f"{'d':>5} {'ours s':>9} {'sqrtm s':>9} {'ratio':>6} {'distance':>12} {'difference':>11}")
    for dim in dims:
        arguments = (*moments(dim, 0), *moments(dim, 1))
        repeats = 1 if dim > 1000 else 5
        ours_s, ours = best_of(repeats, lambda a=arguments: frechet_distance_of_moments(*a))
        theirs_s, theirs = best_of(repeats, lambda a=arguments: with_sqrtm(*a))
        ratio, difference = theirs_s / ours_s, ours - theirs
        print(f"{dim:5} {ours_s:9.4f} {theirs_s:9.4f} {ratio:6.1f} {ours:12.6f} {difference:11.1e}")


if __name__ == "__main__":
    main()
