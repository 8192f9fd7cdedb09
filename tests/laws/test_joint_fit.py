"""The joint law's intervals on known surfaces: what they hold, how wide they are, and what is not told.

The full study is `benchmarks/law_coverage.py`; here are few studies with fixed seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fcdm.errors import UserError
from fcdm.laws.joint_fit import JointFit, fit_joint, satterthwaite
from fcdm.laws.surface_points import SurfacePoints
from tests.support.known_surface import FEW_BUDGETS, FEW_SIZES, LOSS, Surface, measured
from tests.support.law_studies import INSIDE, OUTSIDE, Case, coverage

TARGETS = (*INSIDE, *OUTSIDE)
DRAWS = 80
CASES = {
    "2 seeds, 1 %": Case(""),
    "2 seeds, 10 %, an outlier": Case("", of_seed=0.09, of_evaluation=0.045, outlier=1.5),
    "sizes off by 1 %": Case("", of_size=0.01),
}


@cache
def fit_of(draw: int = 0, **how: float) -> JointFit:
    return fit_joint(measured(draw=draw, **how), draws=DRAWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_ninety_five_per_cent_hold_the_law_and_a_new_run(name: str) -> None:
    found = coverage(CASES[name], TARGETS, 8, draws=DRAWS, first=100)
    assert found.law.mean() >= 0.93
    assert found.new_run.mean() >= 0.93
    assert found.exponents.mean() >= 0.93
    if not CASES[name].of_size:  # of which an oracle that knows the form knows nothing
        assert found.width.mean() <= 1.5


def test_another_true_form_is_recognised_as_misfit_and_the_intervals_hold_it_all_the_same() -> None:
    found = coverage(Case("", surface=replace(LOSS, form="Kaplan's")), TARGETS, 4, draws=DRAWS, first=100)
    assert (found.p < 0.01).all()
    assert found.law.mean() >= 0.9
    fit = fit_of(of_seed=0.003, of_evaluation=0.002)
    assert not fit.misfit.is_systematic


def test_the_second_form_fits_what_is_its_own() -> None:
    surface = replace(LOSS, form="Kaplan's")
    points = measured(surface, of_seed=0.002, of_evaluation=0.001)
    fit = fit_joint(points, draws=40)
    assert fit.second.form == "Kaplan's"
    assert fit.scatter(fit.second) < 0.5 * fit.scatter()
    n, d = 4 * FEW_SIZES[-1], 4 * FEW_BUDGETS[-1]
    assert float(fit.second(n, d)) == pytest.approx(float(surface(n, d)), rel=0.02)
    assert fit.away(n, d) == pytest.approx(np.log(float(fit.second(n, d) / fit.law(n, d))))
    # Where seeds cannot leave such residuals, how far the forms are apart is inside the interval.
    low, high = fit.forecast(n, d).law.interval(0.95)
    assert low < float(surface(n, d)) < high
    calm = replace(fit, misfit=replace(fit.misfit, p=0.5)).forecast(n, d).law.interval(0.95)
    assert np.log(high / low) > np.log(calm[1] / calm[0])


def test_e_is_told_where_the_points_tell_it_and_no_number_where_they_do_not() -> None:
    told = fit_of(of_seed=0.001, of_evaluation=0.0005)
    low, high = told.profile.ends
    assert told.profile.untold == ""
    assert 0 < low < LOSS.offset < high < told.points.lowest
    assert told.intervals["E"] == (low, high)
    noisy = fit_of(of_seed=0.05, of_evaluation=0.02)
    assert noisy.profile.ends[0] == 0
    assert "E may as well be 0" in noisy.profile.untold or "any E" in noisy.profile.untold


def test_the_profile_holds_a_stated_e_as_often_as_it_says() -> None:
    held = [
        ends[0] <= LOSS.offset <= ends[1]
        for ends in (fit_of(draw, of_seed=0.004, of_evaluation=0.002).profile.ends for draw in range(200, 206))
    ]
    assert np.mean(held) >= 0.9


def test_both_estimates_are_kept_and_an_outlier_moves_the_fit_little() -> None:
    clean, broken = fit_of(), fit_of(outlier=2.0)
    assert clean.law != clean.projected
    assert clean.projected(*INSIDE[0]) == pytest.approx(float(clean.law(*INSIDE[0])), rel=0.02)
    for target in INSIDE:
        assert float(broken.law(*target)) == pytest.approx(float(clean.law(*target)), rel=0.02)


def test_units_of_size_data_and_value_move_nothing_else() -> None:
    points = measured()
    scaled = SurfacePoints.checked(points.n * 1e3, points.d / 7, points.y * 40, list(points.runs))
    one, other = fit_joint(points, draws=30), fit_joint(scaled, draws=30)
    assert other.law.size_exponent == pytest.approx(one.law.size_exponent, rel=1e-3)
    n, d = TARGETS[-1]
    ours, theirs = one.forecast(n, d).new_run, other.forecast(n * 1e3, d / 7).new_run
    assert np.array(theirs.quantiles) / 40 == pytest.approx(np.array(ours.quantiles), rel=1e-3)


def test_the_same_points_in_another_order_give_the_same_forecast() -> None:
    points, order = measured(), np.random.default_rng(0).permutation(50)
    runs = np.array([f"run {run}" for run in points.runs])
    ours = fit_joint(SurfacePoints.checked(points.n, points.d, points.y, list(runs)), draws=30)
    mixed = SurfacePoints.checked(points.n[order], points.d[order], points.y[order], list(runs[order]))
    assert fit_joint(mixed, draws=30).forecast(*TARGETS[0]) == ours.forecast(*TARGETS[0])


def test_a_new_run_is_less_sure_than_the_law_by_a_seed_and_its_evaluation() -> None:
    """Seeds' deviations are of evaluated values: where seeds do nothing, they are the evaluation's noise."""
    fit = fit_of()
    n, d = TARGETS[-1]
    plain, noisy = fit.forecast(n, d), fit_of(of_seed=0.0, of_evaluation=0.1).forecast(n, d)
    law, run = (np.log(high / low) for low, high in (one.interval(0.95) for one in (plain.law, plain.new_run)))
    assert law < run
    low, high = noisy.new_run.interval(0.95)
    assert np.log(high / low) > 2 * 1.96 * 0.1
    assert plain.law.median == pytest.approx(float(fit.law(n, d)), rel=0.01)
    assert plain.law.freedom <= fit.points.seed_freedom + 1e-9


def test_budgets_that_differ_between_sizes_as_of_equal_compute_are_fitted_too() -> None:
    random = np.random.default_rng(0)
    rows = [
        (n, c / n, float(LOSS(n, c / n)) * np.exp(random.normal(0, 0.005)), f"{n}-{seed}")
        for n in FEW_SIZES
        for seed in (0, 1)
        for c in np.geomspace(6e10, 2e12, 5)
    ]
    n, d, y, runs = zip(*rows, strict=True)
    fit = fit_joint(SurfacePoints.checked(n, d, y, runs), draws=60)
    low, high = fit.forecast(*INSIDE[1]).law.interval(0.95)
    assert low < float(LOSS(*INSIDE[1])) < high


def test_seeds_that_agree_to_the_last_digit_forecast_one_number() -> None:
    fit = fit_joint(measured(of_seed=0, of_evaluation=0), draws=10)
    law = fit.forecast(*TARGETS[-1]).law
    assert law.interval(0.95) == pytest.approx([float(LOSS(*TARGETS[-1]))] * 2, rel=1e-3)


TOO_FEW = {
    "sizes": ({"sizes": FEW_SIZES[:3]}, "4 sizes with 3 budgets each at least, here are 3"),
    "budgets": ({"images": FEW_BUDGETS[:2]}, r"here are none \(budgets of each size: 2, 2, 2, 2, 2\)"),
    "seeds": ({"seeds": 1}, "3 second runs of a size at least, .*; here are none"),
}


@pytest.mark.parametrize("what", TOO_FEW)
def test_too_few_points_are_refused_in_a_line(what: str) -> None:
    how, line = TOO_FEW[what]
    with pytest.raises(UserError, match=line):
        measured(Surface(), **how)  # type: ignore[arg-type]


def test_numbers_that_no_law_meets_and_runs_that_are_none_are_refused() -> None:
    points = measured()
    runs = [f"run {run}" for run in points.runs]
    bad = points.y.copy()
    bad[3] = np.nan
    with pytest.raises(UserError, match="numbers above 0: the value of run 0 is nan"):
        SurfacePoints.checked(points.n, points.d, bad, runs)
    with pytest.raises(UserError, match="run 0 has two values at one number of images"):
        SurfacePoints.checked(
            np.r_[points.n, points.n[0]],
            np.r_[points.d, points.d[0]],
            np.r_[bad, 1.0][[*range(3), 50, *range(4, 51)]],
            [*runs, "run 0"],
        )
    with pytest.raises(UserError, match="one has two sizes"):
        SurfacePoints.checked(points.n, points.d, points.y, ["one"] * 50)


def test_degrees_of_freedom_of_a_sum_lie_between_its_parts() -> None:
    assert satterthwaite([(1.0, 5.0), (0.0, 2.0)]) == pytest.approx(5)
    assert satterthwaite([(1.0, 5.0), (1.0, 5.0)]) == pytest.approx(10)
    assert satterthwaite([(0.0, 5.0), (4.0, 2.0)]) == pytest.approx(2)
    assert np.isinf(satterthwaite([(0.0, 5.0)]))
