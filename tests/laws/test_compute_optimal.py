"""The best use of a compute by the joint law, against a search over all sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import ArrayLike

from fcdm.errors import UserError
from fcdm.laws.compute_optimal import iso_flop, optimum, optimum_exponents
from fcdm.laws.joint_fit import JointFit, fit_joint
from fcdm.laws.joint_law import FORMS, JointLaw, optima_of
from fcdm.laws.scores import compute_equivalent
from tests.support.known_surface import FEW_SIZES, LOSS, measured

COMPUTE = 6 * 8e6 * 120e3


@cache
def fit() -> JointFit:
    return fit_joint(measured(of_seed=0.003, of_evaluation=0.002), draws=80)


def best_of(law: JointLaw, compute: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of one law."""
    n, d, _ = optima_of(np.array([law.numbers]), compute, law.form)
    return n[0], d[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_optimum_is_the_lowest_of_all_sizes(form: str) -> None:
    law = replace(LOSS, form=form).law
    sizes = np.geomspace(1e4, 1e10, 600_001)
    values = law(sizes, COMPUTE / (6 * sizes))
    n, d = best_of(law, COMPUTE)
    assert float(n) == pytest.approx(sizes[np.argmin(values)], rel=1e-3)
    assert 6 * float(n) * float(d) == pytest.approx(COMPUTE)


@pytest.mark.parametrize("form", FORMS)
def test_exponents_are_the_slopes_of_the_optimum(form: str) -> None:
    law = replace(LOSS, form=form).law
    made = replace(fit(), law=law, draws=np.array([law.numbers] * 3), by_seeds=np.array([law.numbers] * 3))
    of_size, of_data = optimum_exponents(made)
    n, d = best_of(law, [1e12, 1e14])
    assert of_size.median == pytest.approx(np.diff(np.log(n))[0] / np.log(100))
    assert of_data.median == pytest.approx(np.diff(np.log(d))[0] / np.log(100))
    assert of_size.median + of_data.median == pytest.approx(1)


def test_intervals_hold_the_truth() -> None:
    best = optimum(fit(), COMPUTE)
    n, d = best_of(LOSS.law, COMPUTE)
    for true, told in ((n, best.n), (d, best.d), (LOSS(n, d), best.value)):
        low, high = told.interval(0.95)
        assert low < float(true) < high
    truth = LOSS.b / (LOSS.a + LOSS.b)
    low, high = optimum_exponents(fit())[0].interval(0.95)
    assert 0 < low < truth < high < 1
    assert best.n.median * best.d.median * 6 == pytest.approx(COMPUTE, rel=0.01)


def test_a_draw_without_an_effect_of_size_or_of_data_has_its_e_as_its_best_value() -> None:
    """Never a loss of 1, which Student's t would stretch to hundreds: E is what endless data, or size, leaves."""
    e, a, alpha, b, beta = LOSS.law.numbers
    without = [(e, 0.0, alpha, b, beta), (e, a, alpha, 0.0, beta), (e, 0.0, alpha, 0.0, beta)]
    for row in without[:2]:
        rows = np.array([row] * 5)
        told = optimum(replace(fit(), draws=rows, by_seeds=rows), COMPUTE).value
        assert told.median == pytest.approx(e)
    rows = np.array([*without, *[LOSS.law.numbers] * 7])
    best = optimum(replace(fit(), draws=rows, by_seeds=rows), COMPUTE)
    assert best.value.quantiles[-1] == pytest.approx(float(LOSS(*best_of(LOSS.law, COMPUTE))), rel=0.02)
    assert best.n.median == pytest.approx(float(best_of(LOSS.law, COMPUTE)[0]), rel=0.01)


def test_an_iso_flop_curve_has_its_least_at_the_optimum_and_a_band_about_it() -> None:
    curve = iso_flop(fit(), COMPUTE, np.geomspace(*FEW_SIZES[:: len(FEW_SIZES) - 1], 41).tolist())
    n, _ = best_of(fit().law, COMPUTE)
    assert curve.n[np.argmin(curve.value)] == pytest.approx(float(n), rel=0.05)
    assert (curve.low < curve.value).all()
    assert (curve.value < curve.high).all()
    assert ((curve.low < LOSS(curve.n, curve.d)) & (LOSS(curve.n, curve.d) < curve.high)).all()
    assert curve.best.compute == COMPUTE


def test_no_optimum_of_what_has_none() -> None:
    points = replace(fit().points, unit="parameters")
    with pytest.raises(UserError, match="compute is of forward MACs: this law has its sizes in parameters"):
        optimum(replace(fit(), points=points), COMPUTE)
    flat = replace(fit(), law=JointLaw(0.05, 0.0, 0.4, 7.0, 0.5))
    with pytest.raises(UserError, match="no best size: the law shows no effect of size"):
        optimum_exponents(flat)


@pytest.mark.parametrize("multiple", [0.3, 1.0, 2.5])
def test_a_compute_equivalent_is_read_off_the_law_along_compute(multiple: float) -> None:
    n, d = 16e6, 120e3
    reached = float(LOSS.law(n * multiple**0.5, d * multiple**0.5))
    assert compute_equivalent(LOSS.law.along_compute(n, d), reached) == pytest.approx(multiple, rel=0.01)


def test_a_law_without_an_effect_of_data_is_followed_along_size_alone() -> None:
    law = JointLaw(0.05, 6.6, 0.4, 0.0, 0.5)
    assert compute_equivalent(law.along_compute(1e6, 1e5), float(law(2e6, 1e5))) == pytest.approx(4, rel=0.01)
