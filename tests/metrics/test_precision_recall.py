"""Improved precision and recall against brute force in float64, and what they must be by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors

from fcdm.errors import UserError
from fcdm.metrics.float32 import tf32
from fcdm.metrics.precision_recall import manifold_radii, precision_recall

# Whole numbers: their distances are exact in float32 too, so that ties are ties.
points = st.tuples(st.integers(4, 24), st.integers(4, 24), st.integers(1, 4)).flatmap(
    lambda s: st.tuples(
        arrays(np.int64, (s[0], s[2]), elements=st.integers(-6, 6)),
        arrays(np.int64, (s[1], s[2]), elements=st.integers(-6, 6)),
    )
)


def features(n, d, seed, scale=1.0, offset=0.0):
    return (scale * np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(np.float32)


def squared_distances(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.square(a[:, None] - b[None]).sum(axis=2)


def brute_force(reference, samples, k=3):
    """Kynkäänniemi et al. 2019, equations 1 to 3, with all distances in one matrix."""
    radii_r, radii_s = (np.sort(squared_distances(x, x), axis=1)[:, k] for x in (reference, samples))
    between = squared_distances(reference, samples)
    precision = (between <= radii_r[:, None]).any(axis=0).mean()
    recall = (between <= radii_s[None, :]).any(axis=1).mean()
    return precision, recall


def shares(*args, **kwargs):
    result = precision_recall(*args, **kwargs)
    return result.precision, result.recall


@given(points, st.integers(1, 3), st.integers(1, 30))
@settings(max_examples=150)
def test_equals_brute_force(sets, k, block):
    a, b = sets
    assert shares(a, b, k=k, block=block) == pytest.approx(brute_force(a, b, k), abs=1e-15)


@given(points, st.integers(1, 30))
def test_reference_and_samples_change_roles(sets, block):
    a, b = sets
    assert shares(a, b, block=block) == shares(b, a)[::-1]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(4, 30), st.integers(1, 6)),
        elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
    ),
    st.integers(1, 30),
)
@settings(max_examples=150)
def test_identical_sets_score_1_also_where_points_repeat(a, block):
    assert shares(a, a[::-1].copy(), block=block) == (1, 1)


@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 8), st.integers(1, 20))
def test_sets_far_apart_score_0(n, m, d, block):
    assert shares(features(n, d, 0), features(m, d, 1, offset=1000), block=block) == (0, 0)


@pytest.mark.parametrize("block", [64, 100, 1000])
def test_of_inception_like_features(block):
    # Not negative, a mean as large as the spread, 256 of them: float32's rounding counts.
    a, b = np.abs(features(300, 256, 2)), np.abs(features(350, 256, 3, scale=1.02))
    assert shares(a, b, block=block) == pytest.approx(brute_force(a, b), abs=1e-15)
    assert 0 < shares(a, b)[0] < 1


def test_radii_are_scikit_learns():
    a = features(200, 16, 4)
    theirs = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(a.astype(np.float64)).kneighbors(a)[0][:, 3]
    for block in (1, 33, 200):
        radii = manifold_radii(a, block=block)
        assert radii.dtype == torch.float32
        np.testing.assert_allclose(radii.numpy(), theirs**2, rtol=1e-5)


def test_a_mode_that_was_dropped_costs_recall_and_an_invented_one_precision():
    modes = [features(100, 8, seed, scale=0.1, offset=10 * seed) for seed in range(3)]
    both, extra = np.concatenate(modes[:2]), np.concatenate([modes[0][::2], modes[0][1::2]])
    precision, recall = shares(both, extra)
    assert (precision, recall) == (1, 0.5)
    assert shares(both, np.concatenate(modes)) == pytest.approx((2 / 3, 1))


def test_collapsed_samples_have_no_recall():
    reference = features(200, 512, 5)
    assert shares(reference, np.repeat(reference[:1], 50, axis=0), block=64) == (1, 1 / 200)


def test_tensors_half_precision_and_progress():
    a, b = torch.from_numpy(features(50, 4, 6)), torch.from_numpy(features(60, 4, 7))
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        got = precision_recall(a.requires_grad_(), b, block=20, progress=lambda *done: seen.append(done))
    assert (got.precision, got.recall) == brute_force(a.detach(), b)
    assert seen == [(k + 1, 6 + 6 + 9) for k in range(21)]
    assert precision_recall(a.half(), b.half()) == precision_recall(a.half().float(), b.half().float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    a, b = np.abs(features(3000, 256, 8)), np.abs(features(2500, 256, 9))
    with tf32(True):
        found = shares(a, b, block=512, device="cuda")
    assert found == pytest.approx(shares(a, b), abs=1e-3)


def test_mistakes_are_named():
    a = features(10, 3, 10)
    with pytest.raises(UserError, match="more than k = 3 images, the samples are 3"):
        precision_recall(a, a[:3])
    with pytest.raises(ValueError, match="two extractors: 3 and 2"):
        precision_recall(a, a[:, :2])
    with pytest.raises(ValueError, match=r"shape \(10,\), expected"):
        precision_recall(a[:, 0], a)
    a[4, 1] = np.nan
    with pytest.raises(UserError, match="1 of 10 reference are NaN or infinite"):
        precision_recall(a, features(10, 3, 11))
