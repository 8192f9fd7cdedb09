"""Fréchet distances against closed forms and scipy, streamed statistics, 8-bit rounding, the floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fcdm.errors import UserError
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_moments, resampling_floor
from fcdm.metrics.rounding import to_uint8


def statistics_of(features, batch=None):
    """FeatureStatistics of `features` (n, d), fed `batch` rows at a time."""
    result = FeatureStatistics(features.shape[1])
    batch = batch or len(features)
    for start in range(0, len(features), batch):
        result.update(features[start : start + batch])
    return result


def correlated(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5 + rng.normal(size=d)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def distance_of(cov_a, cov_b):
    zero = np.zeros(len(cov_a))
    return frechet_distance_of_moments(zero, cov_a, zero, cov_b)


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 100, None])
def test_streamed_statistics_are_numpys(batch):
    features = correlated(100, 5, 0)
    streamed = statistics_of(features, batch)
    assert streamed.count == 100
    np.testing.assert_allclose(streamed.mean, features.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(streamed.covariance, np.cov(features, rowvar=False), rtol=1e-11, atol=1e-13)
    assert (streamed.covariance == streamed.covariance.T).all()


def test_a_large_mean_costs_no_digits():
    # Multiples of 2^-10 stay exact when 2^26 is added; sums of squares would lose 2^52 x 1e-16 = 0.5.
    features = np.round(correlated(3000, 4, 1) * 1024) / 1024
    shifted = statistics_of(features + 2.0**26, batch=128)
    np.testing.assert_allclose(shifted.covariance, np.cov(features, rowvar=False), rtol=1e-7, atol=1e-8)


def test_merge_is_the_statistics_of_all():
    features = correlated(90, 6, 2)
    parts = [statistics_of(part) for part in (features[:20], features[20:21], features[21:])]
    whole = FeatureStatistics(6)
    for part in [*parts, FeatureStatistics(6)]:
        whole.merge(part)
    assert whole.count == 90
    np.testing.assert_allclose(whole.mean, features.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-11, atol=1e-13)
    with pytest.raises(ValueError, match="5 features into those of 6"):
        whole.merge(FeatureStatistics(5))


@pytest.mark.parametrize("after", [0, 1, 3, 8])
def test_save_and_restore_between_updates_changes_no_bit(tmp_path, after):
    batches = np.array_split(correlated(203, 8, 3).astype(np.float32), 8)
    straight, broken = FeatureStatistics(8), FeatureStatistics(8)
    for k, batch in enumerate([*batches, None]):
        if k == after:
            np.savez(tmp_path / "state.npz", **broken.state())
            with np.load(tmp_path / "state.npz") as saved:
                broken = FeatureStatistics.from_state(saved)
        if batch is not None:
            straight.update(batch)
            broken.update(batch)
    assert broken.count == straight.count == 203
    for key, value in straight.state().items():
        assert value.tobytes() == broken.state()[key].tobytes(), key


def test_a_state_is_a_copy_and_must_fit_itself():
    statistics = statistics_of(correlated(10, 3, 4))
    state = statistics.state()
    before = statistics.covariance
    state["scatter"] += 1
    assert (statistics.covariance == before).all()
    with pytest.raises(ValueError, match="for 3 features"):
        FeatureStatistics.from_state({**state, "scatter": np.zeros((2, 2))})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_count_like_arrays(dtype):
    tensor = torch.from_numpy(correlated(50, 3, 5)).to(dtype).requires_grad_()
    array = tensor.detach().double().numpy()
    assert (statistics_of(tensor).covariance == statistics_of(array).covariance).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named_and_not_added(bad):
    statistics = statistics_of(correlated(10, 3, 6))
    before = statistics.covariance
    batch = correlated(5, 3, 7)
    batch[2, 1] = batch[4, 0] = bad
    with pytest.raises(UserError, match=r"features of 2 of 5 samples are NaN or infinite \(first: sample 12\)"):
        statistics.update(batch)
    assert statistics.count == 10
    assert (statistics.covariance == before).all()


def test_too_few_samples_and_wrong_shapes_are_errors():
    statistics = FeatureStatistics(3)
    statistics.update(np.zeros((0, 3)))
    assert statistics.count == 0
    statistics.update(np.ones((1, 3)))
    enough = statistics_of(correlated(10, 3, 8))
    for pair in ((statistics, enough), (enough, statistics)):
        with pytest.raises(UserError, match="at least 2 samples, got 1"):
            frechet_distance(*pair)
    with pytest.raises(ValueError, match=r"shape \(2, 4\), expected \(n, 3\)"):
        statistics.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="3 and 4"):
        frechet_distance(enough, statistics_of(correlated(10, 4, 8)))
    with pytest.raises(UserError, match="variances are NaN or infinite"):
        distance_of(np.diag([1.0, np.inf]), np.eye(2))


# --- distance -----------------------------------------------------------------------------------


def test_one_dimension():
    # Dowson & Landau 1982: (m1 - m2)^2 + (s1 - s2)^2
    got = frechet_distance_of_moments(np.array([1.0]), np.array([[4.0]]), np.array([-2.0]), np.array([[0.25]]))
    assert got == pytest.approx(9 + 1.5**2, rel=1e-14)


@pytest.mark.parametrize("zeros", [0, 5, 11])
def test_commuting_covariances(zeros):
    rng, q = np.random.default_rng(9), rotation(12)
    roots_a, roots_b = rng.uniform(0.1, 3, (2, 12))
    roots_a[:zeros] = 0
    roots_b[zeros // 2 : zeros] = 0
    got = distance_of((q * roots_a**2) @ q.T, (q * roots_b**2) @ q.T)
    assert got == pytest.approx(np.square(roots_a - roots_b).sum(), rel=1e-6 if zeros else 1e-13)


def test_singular_covariances_with_exact_answers():
    rng = np.random.default_rng(10)
    u, v = rng.normal(size=(2, 40))
    outer = distance_of(np.outer(u, u), np.outer(v, v))
    assert outer == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-12)
    a, b = (
        np.diag(np.r_[rng.uniform(1, 2, 20), np.zeros(20)]),
        np.diag(np.r_[np.zeros(20), rng.uniform(1, 2, 20)]),
    )
    assert distance_of(a, b) == pytest.approx(np.trace(a + b), rel=1e-15)  # nothing in common
    assert distance_of(a, 0 * a) == pytest.approx(np.trace(a), rel=1e-15)
    assert distance_of(0 * a, 0 * a) == 0


def test_fewer_samples_than_features():
    # tr (A B)^(1/2) for A = X^T X of 10 rows is that of the 10 x 10 matrix X B X^T.
    few, many = correlated(11, 64, 11), correlated(2000, 64, 12)
    a, b = statistics_of(few), statistics_of(many)
    x = (few - few.mean(axis=0)) / 10**0.5
    root = np.sqrt(np.linalg.eigvalsh(x @ np.cov(many, rowvar=False) @ x.T).clip(0)).sum()
    closed = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root
    # The 11th eigenvalue of x @ B @ x.T is rounding, whose root is 1e-7.
    assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-7)
    assert frechet_distance(a, a) < 1e-12


@pytest.mark.parametrize("d", [1, 8, 64])
def test_well_conditioned_ones_agree_with_scipy(d):
    a, b = (np.atleast_2d(np.cov(correlated(20 * d, d, seed), rowvar=False)) for seed in (13, 14))
    root = np.trace(sqrtm(a @ b)).real
    assert distance_of(a, b) == pytest.approx(np.trace(a + b) - 2 * root, abs=1e-10)


def test_identical_symmetric_scaled_and_shifted():
    x, y = correlated(300, 16, 15), correlated(200, 16, 16)
    a, b = statistics_of(x), statistics_of(y)
    distance = frechet_distance(a, b)
    assert distance > 1
    assert 0 <= frechet_distance(a, a) < 1e-12
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-13)
    assert frechet_distance(statistics_of(1e-6 * x), statistics_of(1e-6 * y)) == pytest.approx(1e-12 * distance)
    q = rotation(16)
    assert frechet_distance(statistics_of(x @ q), statistics_of(y @ q)) == pytest.approx(distance)
    assert distance_of(a.covariance, 9 * a.covariance) == pytest.approx(4 * np.trace(a.covariance), rel=1e-13)
    assert frechet_distance(a, statistics_of(x + 2.0)) == pytest.approx(4 * 16, rel=1e-12)


# --- rounding -----------------------------------------------------------------------------------


def test_rounding_truncates_and_clamps():
    # 127.5 x + 128: a whole is level 128, white 255.5 truncates to 255, black 0.5 to 0
    x = torch.tensor([[-9.0, -1.0, -0.997, 0.0], [0.0078, 0.00785, 1.0, 1.01]])
    assert to_uint8(x).tolist() == [[0, 0, 0, 128], [128, 129, 255, 255]]
    assert to_uint8(x).dtype == torch.uint8
    assert to_uint8(torch.tensor([torch.inf, -torch.inf])).tolist() == [255, 0]
    levels = torch.arange(256)
    for dtype in (torch.float32, torch.float64):
        assert (to_uint8((levels.to(dtype) - 127.5) / 127.5) == levels).all()


def test_rounding_of_half_precision_is_done_in_float32():
    assert to_uint8(torch.tensor([0.5], dtype=torch.bfloat16)).item() == 191  # bfloat16 would say 192
    assert to_uint8(torch.tensor([0.5], dtype=torch.float16)).item() == 191


def test_rounding_refuses_nan():
    with pytest.raises(UserError, match="samples contain NaN"):
        to_uint8(torch.tensor([0.0, torch.nan]))


# --- floor --------------------------------------------------------------------------------------


def test_floor_of_one_gaussian_feature():
    # E (mean error)^2 = s^2 / n and E (deviation error)^2 = s^2 / 2n: the floor is 1.5 s^2 / n.
    features = 2 * np.random.default_rng(17).normal(size=(20_000, 1))
    mean, sd = resampling_floor(features, count=100, draws=600)
    assert mean == pytest.approx(1.5 * 4 / 100, rel=0.12)
    assert 0.7 * mean < sd < 1.2 * mean  # sqrt(1 + 1/4) / 1.5 = 0.75 of the mean at a deviation error's Gaussian limit


def test_floor_falls_with_the_count_and_is_reproducible():
    features = correlated(500, 10, 18)
    small, large = resampling_floor(features, 200), resampling_floor(features, 2000)
    assert 7 < small[0] / large[0] < 14
    assert resampling_floor(features, 200) == small
    assert resampling_floor(features, 200, seed=1) != small
    for count, draws in ((1, 10), (10, 1)):
        with pytest.raises(UserError, match="at least 2 samples and 2 draws"):
            resampling_floor(features, count, draws)
