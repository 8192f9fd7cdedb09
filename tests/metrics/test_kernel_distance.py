"""The kernel distance: its closed form, no bias, and an error that is the spread over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.errors import UserError
from fcdm.metrics.kernel_distance import kernel_distance

Array = np.ndarray


def gaussians(seed: int, count: int, mean: float = 0.0, scale: float = 1.0, dim: int = 1) -> Array:
    return mean + scale * np.random.default_rng(seed).standard_normal((count, dim))


def moments_of_gaussian(mean: float, scale: float) -> Array:
    """E x, E x^2, E x^3."""
    return np.array([mean, mean**2 + scale**2, mean**3 + 3 * mean * scale**2])


def exact(mean: float, scale: float) -> float:
    """Between N(0, 1) and N(mean, scale^2): (x y + 1)^3 is 1 + 3xy + 3x^2y^2 + x^3y^3, so its MMD^2 is of moments."""
    apart = moments_of_gaussian(mean, scale) - moments_of_gaussian(0.0, 1.0)
    return float((np.array([3, 3, 1]) * apart**2).sum())


def naive(x: Array, y: Array) -> float:
    """The definition, with all kernels at once."""

    def kernel(a: Array, b: Array) -> Array:
        return (a @ b.T / a.shape[1] + 1) ** 3

    m, n = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * kernel(x, y).mean())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    m=st.integers(4, 30),
    n=st.integers(4, 30),
    dim=st.integers(1, 5),
    block=st.integers(1, 40),
)
def test_it_is_the_u_statistic_whatever_the_blocks(seed: int, m: int, n: int, dim: int, block: int) -> None:
    x, y = gaussians(seed, m, dim=dim), gaussians(seed + 1, n, mean=0.5, dim=dim)
    found = kernel_distance(x, y, block)
    whole = kernel_distance(x, y)
    assert found.value == pytest.approx(naive(x, y), rel=1e-9, abs=1e-9)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-6, abs=1e-9)
    swapped = kernel_distance(y, x, block)
    assert swapped.value == pytest.approx(found.value, rel=1e-9, abs=1e-9)
    assert swapped.standard_error == pytest.approx(found.standard_error, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.2)])
def test_it_has_no_bias_at_few_samples(mean: float, scale: float) -> None:
    values = [
        kernel_distance(gaussians(2 * seed, 30, mean, scale), gaussians(2 * seed + 1, 50)).value for seed in range(1000)
    ]
    assert abs(np.mean(values) - exact(mean, scale)) < 4 * np.std(values) / len(values) ** 0.5


@pytest.mark.parametrize(
    ("shift", "at_least", "at_most"),
    [
        (0.3, 0.9, 1.1),  # one sample's part of the variance, which is linear in the shift, outweighs the pairs'
        (0.0, 0.9, 2.0),  # one distribution: only pairs count, and the bound errs to the careful side
    ],
)
def test_its_error_is_what_draws_spread_by(shift: float, at_least: float, at_most: float) -> None:
    found = []
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        samples, real = generator.uniform(-1, 1, (30, 4)), generator.uniform(-1, 1, (50, 4))
        found.append(kernel_distance(samples + shift, real))
    spread = np.std([one.value for one in found], ddof=1)
    variance = np.mean([one.standard_error**2 for one in found])
    assert at_least < variance / spread**2 < at_most


def test_it_takes_any_floats_and_ignores_autocast() -> None:
    x, y = gaussians(0, 40, dim=8), gaussians(1, 40, mean=1.0, dim=8)
    plain = kernel_distance(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        cast = kernel_distance(torch.tensor(x, dtype=torch.float32), y.astype(np.float32))
    assert cast.value == pytest.approx(plain.value, rel=1e-5)


def test_progress_counts_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    kernel_distance(gaussians(0, 10), gaussians(1, 7), 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 15) for number in range(1, 16)]  # 3 blocks and 2: 6 + 3 + 6 pairs


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), "a kernel distance needs at least 4 images, the samples are 3"),
        (np.zeros((9, 2)), np.full((9, 2), np.nan), "features of 9 of 9 reference are NaN or infinite"),
    ],
)
def test_what_has_no_distance_is_refused(x: Array, y: Array, told: str) -> None:
    with pytest.raises(UserError, match=told):
        kernel_distance(x, y)


def test_sets_of_two_extractors_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="two extractors"):
        kernel_distance(np.zeros((9, 2)), np.zeros((9, 3)))
