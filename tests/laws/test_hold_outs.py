"""Hold-outs, their baselines, and how far out a law may be asked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fcdm.laws.hold_outs import (
    BEYOND,
    BOTH,
    BUDGET,
    INTERPOLATION,
    SIZE,
    VALIDATED,
    Gap,
    Validation,
    baselines,
    splits,
    validate,
)
from fcdm.laws.predictive import Predictive
from fcdm.laws.surface_points import SurfacePoints
from fcdm.laws.verdict import FAILED, HELD, UNINFORMATIVE, verdict
from tests.support.known_surface import FEW_BUDGETS, FEW_SIZES, LOSS, Surface, measured

N, D = FEW_SIZES[-1], FEW_BUDGETS[-1]


@cache
def validated() -> Validation:
    return validate(measured(of_seed=0.001, of_evaluation=0.0005), is_loss=True, draws=60)


def test_a_true_law_with_little_noise_holds_at_every_hold_out() -> None:
    made = validated()
    assert [one.left_out for one in made.held_out] == [SIZE] * 5 + [BUDGET] * 5 + [BOTH]
    assert {one.state for one in made.held_out} == {HELD}
    both = made.held_out[-1]
    assert (both.n, both.d) == pytest.approx((N, D))
    assert both.gap == Gap(pytest.approx(2), pytest.approx(2), pytest.approx(4))  # type: ignore[arg-type]
    assert both.error == pytest.approx(np.log(both.forecast.new_run.median / both.measured))
    assert abs(both.error) < 0.01 < min(abs(both.last_value), abs(both.last_two))
    assert both.seed_deviation == pytest.approx(0.0011 / np.sqrt(2), rel=0.5)
    assert made.validated == (both.gap,)
    assert made.notes == ()


def test_an_error_in_compute_is_the_forecasts_and_not_the_estimates() -> None:
    """Where draws lie askew about the estimate, their median is off by more than a loss may be: 1 is as forecast."""
    made = validated()
    for one in made.held_out:
        assert (one.error > 0) == (one.compute_equivalent > 1)
    askew, curve = Predictive.log_t(0.102, 0.05), [(0.25, 0.102), (1.0, 0.1), (4.0, 0.099)]
    assert verdict(askew, 0.102, 0.0, curve) == (HELD, "")
    assert verdict(askew, 0.1, 0.0, curve) == (FAILED, "off by x4 in compute")


def test_what_lies_inside_the_validated_gap_is_forecast_and_what_lies_beyond_is_refused() -> None:
    made = validated()
    reached = {
        (FEW_SIZES[1] * 1.3, 50e3): INTERPOLATION,
        (N, D): INTERPOLATION,
        (2 * N, D): VALIDATED,
        (N, 2 * D): VALIDATED,
        (2 * N, 2 * D): VALIDATED,
        (2.2 * N, D): BEYOND,
        (N, 4 * D): BEYOND,
        (FEW_SIZES[0] / 2, D): BEYOND,
    }
    assert {target: made.reach(*target) for target in reached} == reached
    low, high = made.fit.forecast(2 * N, 2 * D).law.interval(0.95)
    assert low < float(LOSS(2 * N, 2 * D)) < high
    assert made.refusal(2 * N, 2 * D) == made.refusal(N, D) == ""
    further = made.refusal(N, 4 * D)
    assert further.startswith("x1 in size, x4 in data, x4 in FLOPs beyond the fitted points is further than")
    below = "the size, 1e+06, is below the smallest that was fitted, 2e+06"
    assert made.refusal(FEW_SIZES[0] / 2, D) == below


def test_without_a_told_e_nothing_is_said_of_larger_sizes() -> None:
    made = validated()
    flat = replace(made.fit.profile, excess=np.zeros_like(made.fit.profile.excess))
    untold = replace(made, fit=replace(made.fit, profile=flat))
    assert untold.reach(2 * N, D) == BEYOND
    assert untold.reach(N, 2 * D) == VALIDATED
    refusal = untold.refusal(2 * N, D)
    assert refusal.startswith("nothing is said of larger sizes, for E is not told: any E from 0")


def test_a_failure_is_validated_past_by_nothing_and_an_uninformative_hold_out_is_neither() -> None:
    made = validated()
    size, budget, both = Gap(2, 1, 2), Gap(1, 2, 2), made.held_out[-1].gap
    assert both.holds(size)
    assert not size.holds(both)

    def gaps(state: str, *places: int) -> tuple[Gap, ...]:
        changed = [replace(one, state=state) if place in places else one for place, one in enumerate(made.held_out)]
        return replace(made, held_out=tuple(changed)).validated

    # The largest size at the largest budget failed without that size: so did whatever is further out in all three.
    failed = gaps(FAILED, 4)
    assert not any(gap.holds(size) for gap in failed)
    assert any(gap.holds(budget) for gap in failed)
    assert any(gap.holds(Gap(2, 1, 1)) for gap in failed)
    assert gaps(UNINFORMATIVE, 4) == (both,), "what held further out still stands"
    assert not any(gap.holds(both) for gap in gaps(UNINFORMATIVE, len(made.held_out) - 1)), "it validates nothing"
    assert gaps(UNINFORMATIVE, *range(len(made.held_out))) == ()


def test_another_true_form_fails_where_it_matters() -> None:
    """Sizes that stop helping: what the largest does is not what the others say."""
    points = measured(of_seed=0.001, of_evaluation=0.0005)
    broken = np.where(points.sizes == 4, points.y * 1.03, points.y)
    made = validate(replace(points, y=broken), is_loss=True, draws=60)
    states = {one.state for one in made.held_out if one.left_out == SIZE}
    assert states == {FAILED}
    assert made.reach(2 * N, D) == BEYOND


def test_baselines_are_the_nearest_cell_and_lines_through_two() -> None:
    """Of a product of powers the lines are right in both directions; the last value is the nearest fitted cell's."""
    points = measured(Surface(), of_seed=0, of_evaluation=0)
    powers = replace(points, y=3 * points.n**-0.3 * points.d**-0.2)
    kept = powers.only((points.sizes < 4) & (points.d < D * 0.9))
    last, two = baselines(kept, N, D)
    assert last == pytest.approx(3 * FEW_SIZES[3] ** -0.3 * FEW_BUDGETS[3] ** -0.2)
    assert two == pytest.approx(3 * N**-0.3 * D**-0.2)
    at_budget = baselines(kept, FEW_SIZES[1], D)
    assert at_budget[0] == pytest.approx(3 * FEW_SIZES[1] ** -0.3 * FEW_BUDGETS[3] ** -0.2)
    assert at_budget[1] == pytest.approx(3 * FEW_SIZES[1] ** -0.3 * D**-0.2)
    at_size = baselines(kept, N, FEW_BUDGETS[1])
    assert at_size[0] == pytest.approx(3 * FEW_SIZES[3] ** -0.3 * FEW_BUDGETS[1] ** -0.2)
    assert at_size[1] == pytest.approx(3 * N**-0.3 * FEW_BUDGETS[1] ** -0.2)


def test_a_largest_size_that_was_trained_less_is_still_held_out_in_both() -> None:
    points = measured()
    less = points.only((points.sizes < 4) | (points.d < D * 0.9))
    (_, kept, targets) = splits(less)[2]
    assert set(less.d[kept]) == set(FEW_BUDGETS[:3])
    assert less.sizes[kept].max() == 3
    assert set(zip(less.n[targets], less.d[targets], strict=True)) == {(N, FEW_BUDGETS[3])}
    (_, kept, targets) = splits(less)[1]
    assert set(less.d[targets]) == {D}
    assert less.sizes[kept].max() == 4


def test_of_equal_computes_the_largest_budget_is_each_sizes_last() -> None:
    n, d, runs = zip(
        *[(n, c / n, f"{n}-{seed}") for n in FEW_SIZES for seed in (0, 1) for c in np.geomspace(6e10, 2e12, 5)],
        strict=True,
    )
    points = SurfacePoints.checked(n, d, LOSS(np.array(n), np.array(d)), runs)
    (_, kept, targets) = splits(points)[1]
    assert points.compute[targets] == pytest.approx(2e12)
    assert points.compute[kept].max() < 1.9e12


def test_a_hold_out_that_leaves_too_few_points_is_a_note() -> None:
    made = validate(measured(sizes=FEW_SIZES[:4], of_seed=0.002, of_evaluation=0.001), is_loss=True, draws=30)
    assert {one.left_out for one in made.held_out} == {BUDGET}
    assert len(made.notes) == 2
    assert made.notes[0].startswith("no hold-out of the largest size: a joint law needs 4 sizes")


def test_verdicts_follow_the_rules_that_were_fixed_before() -> None:
    narrow, wide = Predictive.log_t(20.0, 0.1, 6), Predictive.log_t(20.0, 0.3, 6)
    assert verdict(narrow, 20.5, 0.01) == (HELD, "")
    assert verdict(narrow, 30.0, 0.01)[0] == FAILED
    assert "outside the 95 % interval" in verdict(narrow, 30.0, 0.01)[1]
    assert verdict(narrow, 24.0, 0.01) == (FAILED, "off by -17%")  # inside, but by more than 15 %
    assert verdict(narrow, 24.0, 0.1) == (HELD, "")  # within two seed deviations
    assert verdict(wide, 20.0, 0.01) == (UNINFORMATIVE, "its 80 % interval is x2.37 wide")
    curve = [(0.25, 0.104), (0.5, 0.102), (1.0, 0.1), (2.0, 0.098)]
    loss = Predictive.log_t(0.1, 0.02, 6)
    assert verdict(loss, 0.0995, 0.001, curve) == (HELD, "")
    assert verdict(loss, 0.098, 0.001, curve) == (FAILED, "off by x2 in compute")
