"""The Inception Score of known distributions, against brute force, and in parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.errors import UserError
from fcdm.features import Features
from fcdm.features.sample_statistics import SampleStatistics
from fcdm.metrics.inception_score import InceptionScore, shuffled


def random_probabilities(n, classes, seed=0, sharpness=2.0):
    logits = sharpness * np.random.default_rng(seed).normal(size=(n, classes))
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def score_of(p, split=5000):
    score = InceptionScore(p.shape[1], split)
    score.update(p)
    return score.score()


def brute_force(p, split):
    """Salimans et al. 2016 over consecutive slices, as ADM's evaluator takes them."""
    scores = []
    for start in range(0, len(p), split):
        part = p[start : start + split]
        divergence = (part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return np.mean(scores), np.std(scores)


def test_one_answer_for_all_scores_1():
    assert score_of(np.full((100, 10), 0.1)) == pytest.approx((1, 0), abs=1e-14)
    assert score_of(np.tile(np.eye(7)[2], (50, 1))) == (1, 0)  # one class only, and logarithms of 0
    assert score_of(random_probabilities(1, 5)) == pytest.approx((1, 0), abs=1e-14)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_certain_and_balanced_scores_the_number_of_classes(classes):
    p = np.eye(classes)[np.arange(2 * classes) % classes]
    assert score_of(p) == pytest.approx((classes, 0), rel=1e-12)


def test_two_certain_classes_of_unequal_share():
    p = np.eye(3)[[0] * 30 + [1] * 10]
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert score_of(p)[0] == pytest.approx(np.exp(entropy), rel=1e-13)


@pytest.mark.parametrize(("n", "split"), [(100, 100), (100, 25), (100, 30), (101, 100), (7, 5000)])
def test_equals_brute_force(n, split):
    p = random_probabilities(n, 12)
    assert score_of(p, split) == pytest.approx(brute_force(p, split), rel=1e-12, abs=1e-12)


def test_splits_are_consecutive_and_a_short_last_one_counts_like_the_others():
    p = np.concatenate([np.eye(4)[np.arange(20) % 4], np.eye(4)[[0, 1]]])
    assert score_of(p, 20) == pytest.approx((3, 1), rel=1e-12)  # scores 4 and 2


@given(st.data())
@settings(max_examples=60)
def test_batches_ranks_and_order_do_not_matter(data):
    n, split = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 15))
    p = random_probabilities(n, 5, seed=data.draw(st.integers(0, 9)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n), max_size=6)) | {0, n})
    ranks = [InceptionScore(5, split) for _ in range(data.draw(st.integers(1, 3)))]
    pairs = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    for start, end in pairs:
        rank = data.draw(st.integers(0, len(ranks) - 1))
        ranks[rank].update(torch.from_numpy(p[start:end]), start)
        ranks[rank] = InceptionScore.from_state(ranks[rank].state())
    whole = InceptionScore(5, split)
    for rank in ranks:
        whole.merge(rank)
    assert whole.count == n
    assert whole.score() == pytest.approx(brute_force(p, split), rel=1e-10, abs=1e-10)


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_shuffling_is_the_same_numbers_in_other_places_by_the_seed(count, seed):
    places = shuffled(count, seed)
    assert sorted(places.tolist()) == list(range(count))
    assert shuffled(count, seed).tolist() == places.tolist()
    if count >= 50:  # of 50! orders none comes twice
        assert places.tolist() != list(range(count))
        assert places.tolist() != shuffled(count, seed + 1).tolist()


def test_shuffled_splits_are_those_of_the_shuffled_samples_on_any_ranks():
    n, split = 60, 20
    p = np.eye(3)[np.arange(n) // split]  # class by class: in order every split scores 1
    pool = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 4))).float()

    def scored(places, ranks):
        parts = [SampleStatistics(4, classes=3, split=split) for _ in range(ranks)]
        for number, start in enumerate(range(0, n, 7)):
            part = parts[number % ranks]
            part.places = places
            end = min(start + 7, n)
            part.update(Features(pool[start:end], None, torch.from_numpy(p[start:end])), start)
        whole = SampleStatistics(4, classes=3, split=split)
        for part in parts:
            whole.merge(SampleStatistics.from_state(part.state()))
        return whole.inception.score()

    places = shuffled(n, 5)
    put = np.empty_like(p)
    put[places] = p
    assert scored(None, 1) == pytest.approx((1, 0), abs=1e-12)
    wanted = brute_force(np.clip(put, 1e-300, 1), split)
    assert wanted[0] > 2
    for ranks in (1, 2, 3):
        assert scored(places, ranks) == pytest.approx(wanted, rel=1e-10, abs=1e-10)


def test_save_and_restore_changes_no_bit(tmp_path):
    parts = np.array_split(random_probabilities(50, 6).astype(np.float32), 4)
    straight, broken = InceptionScore(6, 20), InceptionScore(6, 20)
    for part in parts:
        np.savez(tmp_path / "state.npz", **broken.state())
        with np.load(tmp_path / "state.npz") as saved:
            broken = InceptionScore.from_state(saved)
        straight.update(part)
        broken.update(part)
    assert straight.score() == broken.score()


def test_mistakes_are_named():
    score = InceptionScore(3, 10)
    with pytest.raises(UserError, match="needs samples"):
        score.score()
    with pytest.raises(ValueError, match=r"shape \(2, 4\), expected \(n, 3\)"):
        score.update(np.full((2, 4), 0.25))
    for bad in (np.nan, -0.5, 0.9):
        p = np.full((4, 3), 1 / 3)
        p[2, 1] = bad
        with pytest.raises(UserError, match=r"1 of 4 samples are NaN, negative .* sample 7\)"):
            score.update(p, first=5)
    assert score.count == 0
    score.update(np.full((6, 3), 1 / 3), first=0)
    with pytest.raises(ValueError, match="split 0 has 12 samples"):
        score.update(np.full((6, 3), 1 / 3), first=0)
    for other in (InceptionScore(4, 10), InceptionScore(3, 9)):
        with pytest.raises(ValueError, match="cannot merge scores"):
            InceptionScore(3, 10).merge(other)
    with pytest.raises(ValueError, match="at least one sample"):
        InceptionScore(3, 0)
