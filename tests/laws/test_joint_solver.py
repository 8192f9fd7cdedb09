"""The solver of the joint law against truths, scipy's solvers, and its own bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares, nnls

from fcdm.laws.joint_law import FORMS, JointLaw
from fcdm.laws.joint_solver import solve_joint
from tests.support.known_surface import FEW_BUDGETS, FEW_SIZES

N, D = (part.ravel() for part in np.meshgrid(FEW_SIZES, FEW_BUDGETS, indexing="ij"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("offset", "alpha", "beta"), [(0.05, 0.4, 0.5), (0.0, 0.2, 0.9), (0.01, 1.1, 0.3)])
def test_points_without_noise_give_back_their_law(form: str, offset: float, alpha: float, beta: float) -> None:
    truth = JointLaw(offset, 0.02 * 2e6**alpha, alpha, 0.06 * 15e3**beta, beta, form)
    y = truth(N, D)
    found, cost, _ = solve_joint(N, D, y[None], 0.02, lowest=y.min(), form=form)
    assert cost[0] < 1e-12
    law = JointLaw.of_row(found[0], form)
    assert law(N * 3, D * 3) == pytest.approx(truth(N * 3, D * 3), rel=1e-3)
    if offset:
        assert found[0] == pytest.approx(truth.numbers, rel=0.01)


def noisy(random: np.random.Generator, noise: float = 0.02) -> np.ndarray:
    truth = JointLaw(0.05, 0.02 * 2e6**0.4, 0.4, 0.06 * 15e3**0.5, 0.5)
    return np.asarray(truth(N, D) * np.exp(random.normal(0, noise, len(N))))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 0.3))
def test_projection_is_non_negative_least_squares_and_keeps_e_at_or_below_the_lowest(draw: int, noise: float) -> None:
    y = noisy(np.random.default_rng(draw), noise)
    _, _, projected = solve_joint(N, D, y[None], 100.0, lowest=y.min())  # no point beyond delta: plain squares
    offset, size_scale, alpha, data_scale, beta = projected[0]
    assert (projected >= 0).all()
    assert offset <= y.min() * (1 + 1e-9)
    columns = np.stack([np.ones_like(y), (N / N[0]) ** -alpha, (D / D[0]) ** -beta], axis=1) / y[:, None]
    parts, norm = nnls(columns, np.ones_like(y))
    if parts[0] <= y.min():
        own = columns @ [offset, size_scale * N[0] ** -alpha, data_scale * D[0] ** -beta] - 1
        assert own @ own == pytest.approx(norm**2, rel=1e-5)


def test_no_start_of_scipys_finds_a_better_log_huber() -> None:
    """Huber's loss of log residuals, from 40 starts at random; one value is an outlier."""
    random = np.random.default_rng(3)
    y = noisy(random)
    y[7] *= 1.5
    delta = 0.02
    _, cost, _ = solve_joint(N, D, y[None], delta, lowest=y.min())
    u, v = np.log(N / N.mean()), np.log(D / D.mean())

    def off(p: np.ndarray) -> np.ndarray:
        parts = np.logaddexp(p[1] - np.exp(p[2]) * u, p[3] - np.exp(p[4]) * v)
        return np.asarray(np.logaddexp(p[0], parts) - np.log(y))

    low, high = [-20, -20, np.log(0.01), -20, np.log(0.01)], [np.log(y.min()), 5, np.log(6), 5, np.log(6)]
    starts = random.uniform([-6, -6, -3, -6, -3], [np.log(y.min()), -1, 1, -1, 1], (40, 5))
    best = min(
        least_squares(off, start, loss="huber", f_scale=delta, bounds=(low, high), max_nfev=2000).cost
        for start in starts
    )
    assert cost[0] <= best * (1 + 1e-4)


def test_draws_that_begin_near_the_estimate_end_where_a_whole_grid_ends() -> None:
    random = np.random.default_rng(1)
    y = np.array([noisy(random) for _ in range(60)])
    first, _, _ = solve_joint(N, D, y[:1], 0.027, lowest=y[0].min())
    _, whole, _ = solve_joint(N, D, y, 0.027, lowest=y.min(axis=1))
    _, near, _ = solve_joint(N, D, y, 0.027, lowest=y.min(axis=1), first=first[0])
    assert near == pytest.approx(whole, rel=1e-3)


def test_an_offset_that_is_held_stays() -> None:
    y = noisy(np.random.default_rng(2))
    offsets = np.array([0.01, 0.03, 0.06])
    found, cost, _ = solve_joint(N, D, np.tile(y, (3, 1)), 0.027, lowest=y.min(), offsets=offsets)
    assert found[:, 0] == pytest.approx(offsets)
    assert (cost >= solve_joint(N, D, y[None], 0.027, lowest=y.min())[1] * (1 - 1e-6)).all()


def test_what_has_no_effect_has_no_part() -> None:
    """Values that do not depend on size: A N^-alpha is nothing, or flat."""
    y = 0.05 + 0.06 * (D / 15e3) ** -0.5
    law = JointLaw.of_row(solve_joint(N, D, y[None], 0.01, lowest=y.min())[0][0])
    assert law(N * 10, D) == pytest.approx(y, rel=1e-3)
