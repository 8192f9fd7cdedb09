"""The two ratios: of budgets, and of what each model had spent at equal FID. Published points, closed forms, laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcdm.analysis.published import published, published_curve
from fcdm.analysis.stats.step_efficiency import (
    FidCurve,
    RatioRange,
    budget_ratio,
    equal_fid_ratio,
    fid_curve,
    ratio_curve,
    ratio_range,
    reach,
    shared_targets,
)

STEPS = np.array([100.0, 200.0, 400.0, 800.0])
FID = np.array([80.0, 40.0, 20.0, 10.0])


def of_paper(model: str, axis: str = "steps", resolution: int = 256) -> FidCurve:
    points = published_curve(published(), model, resolution)
    return fid_curve(points[axis], points["fid"])


# --- the papers' points --------------------------------------------------------------------------------


def test_equal_fid_ratios_of_the_published_points() -> None:
    """Worked by hand: FCDM-XL passes FID 9.62 a share (10.72 - 9.62) / (10.72 - 7.91) = 0.39146 of the way, in log
    steps, from 400K to 1M: 572.6K steps, against DiT-XL/2's 7M."""
    fcdm, dit = of_paper("FCDM-XL"), of_paper("DiT-XL/2")
    found = equal_fid_ratio(fcdm, dit, 9.62)
    assert found.a.amount == pytest.approx(400e3 * 2.5 ** (1.10 / 2.81))
    assert (found.a.how, found.b.how) == ("interpolated", "measured")
    assert round(found.ratio, 1) == 12.2
    assert round(equal_fid_ratio(fcdm, dit, 10.67).ratio, 1) == 5.8


def test_the_abstract_s_budgets_are_another_number() -> None:
    seven = budget_ratio(1e6, 7e6, fid_a=7.91, fid_b=9.62)
    assert (seven.ratio, seven.bounds_equal_fid) == (7.0, True)
    dit, fcdm = of_paper("DiT-XL/2"), of_paper("FCDM-XL")
    assert equal_fid_ratio(fcdm, dit, 9.62).ratio > seven.ratio  # as `bounds_equal_fid` promises
    claimed = budget_ratio(400e3, 3e6, fid_b=12.03)  # FCDM's FID at 400K was not found
    assert (claimed.ratio, claimed.bounds_equal_fid) == (7.5, False)
    follows = budget_ratio(1e6, 3e6, fid_a=7.46, fid_b=12.03)
    assert (follows.ratio, follows.bounds_equal_fid) == (3.0, True)
    assert not budget_ratio(100, 200, fid_a=5.0, fid_b=4.0).bounds_equal_fid
    rose = [10.0, 5.5, 6.0]
    assert not budget_ratio(100, 800, fid_a=5.0, fid_b=6.5, earlier_b=rose).bounds_equal_fid
    assert budget_ratio(100, 200, fid_a=5.0, fid_b=5.5, earlier_b=rose[:1]).bounds_equal_fid


@pytest.mark.parametrize(("axis", "at"), [("steps", (5.8, 12.2)), ("train_flops", (10.6, 22.5))])
def test_the_extremes_of_a_ratio_lie_at_measured_points(axis: str, at: tuple[float, float]) -> None:
    a, b = of_paper("FCDM-XL", axis), of_paper("DiT-XL/2", axis)
    span = ratio_range(a.amount, a.fid, b.amount, b.fid)
    assert isinstance(span, RatioRange)
    knots = [equal_fid_ratio(a, b, fid).ratio for fid in (10.67, 9.62)]
    assert (span.lowest, span.highest) == pytest.approx((knots[0], knots[1]), rel=1e-12)
    assert (round(span.lowest, 1), round(span.highest, 1)) == at


def test_where_a_curve_stood_still_both_sides_count() -> None:
    """a has 40 at 200 and still at 400: at 40 it needs 200 steps, a hair below 400; b needs 282.8 for both."""
    a, b = fid_curve(STEPS, [80.0, 40.0, 40.0, 10.0]), fid_curve(STEPS, [90.0, 60.0, 20.0, 5.0])
    span = ratio_range(a.amount, a.fid, b.amount, b.fid)
    assert isinstance(span, RatioRange)
    at = 200 * 2**0.5
    assert equal_fid_ratio(a, b, 40.0).ratio == pytest.approx(at / 200)
    assert span.lowest <= at / 400 * (1 + 1e-9)
    assert span.highest >= at / 200


def test_half_a_fid_moves_the_published_ratio_by_1_7() -> None:
    """DiT gains 1.05 FID over a factor of 7 / 2.352: half a FID is a factor (7 / 2.352)^(0.5 / 1.05) = 1.68."""
    rows = ratio_curve(of_paper("FCDM-XL"), of_paper("DiT-XL/2"), targets=[9.62, 10.67]).set_index("target")
    factor = (7 / 2.352) ** (0.5 / 1.05)
    assert rows.loc[9.62, "ratio"] / rows.loc[9.62, "low"] == pytest.approx(factor)
    assert rows.loc[10.67, "high"] / rows.loc[10.67, "ratio"] == pytest.approx(factor)
    assert rows.loc[9.62, "high_open"]  # DiT never reached 9.12, so the ratio may be higher than any number here
    assert not rows.loc[9.62, "low_open"]


def test_the_whole_ratio_curve_of_the_published_points() -> None:
    curve = ratio_curve(of_paper("FCDM-XL"), of_paper("DiT-XL/2"))
    assert (curve["target"].iloc[0], curve["target"].iloc[-1]) == (10.72, 9.62)
    assert (curve["low"] <= curve["ratio"]).all()
    assert (curve["ratio"] <= curve["high"]).all()
    # DiT's curve flattens: the lower the FID, the higher the ratio (but for DiT's own bend at 10.67)
    assert curve["ratio"][curve["target"] < 10.67].is_monotonic_increasing
    assert (round(curve["ratio"].min(), 1), round(curve["ratio"].max(), 1)) == (5.8, 12.2)
    in_flops = ratio_curve(of_paper("FCDM-XL", "train_flops"), of_paper("DiT-XL/2", "train_flops"))
    assert np.allclose(in_flops["ratio"] / curve["ratio"], 118.62142 / 64.53002)  # DiT's steps cost that much more


# --- what is measured and what is not ------------------------------------------------------------------


def test_nothing_is_extrapolated_but_bounded() -> None:
    curve = fid_curve(STEPS, FID)
    never = reach(curve, 9.99)
    assert (never.how, never.at_least, never.at_most) == ("not reached", 800.0, math.inf)
    early = reach(curve, 80.01)
    assert (early.how, early.at_least, early.at_most) == ("before the first point", 0.0, 100.0)
    assert math.isnan(never.amount)
    assert math.isnan(early.amount)
    assert reach(curve, 80.0).amount == pytest.approx(100.0)
    assert reach(curve, 10.0).amount == pytest.approx(800.0)
    assert reach(curve, 30.0).amount == pytest.approx(math.sqrt(200 * 400))
    assert (reach(curve, 20.0).how, reach(curve, 30.0).how) == ("measured", "interpolated")


def test_a_model_that_never_got_there_gives_a_bound() -> None:
    fast, slow = fid_curve(STEPS, FID), fid_curve(STEPS, FID + 15)
    found = equal_fid_ratio(fast, slow, 20.0)
    assert math.isnan(found.ratio)
    assert (found.lowest, found.highest) == (pytest.approx(800 / 400), math.inf)
    found = equal_fid_ratio(fid_curve(STEPS, FID / 100), slow, 30.0)
    assert (found.a.how, found.lowest) == ("before the first point", pytest.approx(reach(slow, 30.0).amount / 100))
    nothing = equal_fid_ratio(fid_curve([], []), slow, 30.0)
    assert (nothing.lowest, nothing.highest) == (0.0, math.inf)
    assert nothing.a.how == "not reached"


def test_a_fid_that_rises_counts_by_what_had_been_reached_and_says_so() -> None:
    curve = fid_curve(STEPS, [80.0, 20.0, 50.0, 10.0])
    assert curve.notes == ("FID rose to 50 at 400: the 20 reached before counts on",)
    assert reach(curve, 50.0).amount == pytest.approx(100 * 2**0.5)
    assert reach(curve, 20.0).amount == pytest.approx(200.0)
    assert reach(curve, 15.0).amount == pytest.approx(400 * 2**0.5)


def test_points_without_a_fid_are_named() -> None:
    curve = fid_curve(np.append(STEPS[::-1], [1600.0, 3200.0]), np.append(FID[::-1], [np.nan, np.inf]))
    assert curve.notes == ("no FID at 1,600 (nan)", "no FID at 3,200 (inf)")
    assert reach(curve, 30.0) == reach(fid_curve(STEPS, FID), 30.0)
    assert fid_curve(STEPS, [80.0, 40.0, 0.0, -1.0]).notes == ("no FID at 400 (0)", "no FID at 800 (-1)")


def test_targets_near_the_floor_are_refused_and_it_is_said() -> None:
    b = 2 * FID
    free, cut = ratio_range(STEPS, FID, STEPS, b), ratio_range(STEPS, FID, STEPS, b, floor=15.0)
    assert isinstance(free, RatioRange)
    assert isinstance(cut, RatioRange)
    assert (free.best, free.cut_by_floor) == (pytest.approx(20.0), False)
    assert (cut.best, cut.cut_by_floor) == (pytest.approx(30.0), True)
    refused = ratio_range(STEPS, FID, STEPS, b, floor=45.0)
    assert isinstance(refused, str)
    assert "refused" in refused
    none = ratio_range(STEPS, FID / 100, STEPS, b)
    assert isinstance(none, str)
    assert "not reached" in none
    one = equal_fid_ratio(fid_curve(STEPS, FID), fid_curve(STEPS, b), 25.0, floor=15.0)
    assert math.isnan(one.ratio)
    assert "below 2 times the floor of 15" in str(one.refused)
    assert ratio_curve(fid_curve(STEPS, FID), fid_curve(STEPS, b), floor=15.0)["target"].min() == 30.0


# --- laws ----------------------------------------------------------------------------------------------

falling = st.lists(st.floats(1.0, 300.0), min_size=2, max_size=8, unique=True).map(lambda v: sorted(v, reverse=True))
places = st.floats(0.0, 1.0)


@given(st.floats(1.1, 20.0), st.floats(5.0, 30.0), places)
def test_ratio_of_straight_lines_is_exact_at_every_target(ratio: float, slope: float, place: float) -> None:
    """FID = 300 - slope x log2(steps / c): straight over log steps, so interpolation makes no error."""
    steps = 100.0 * 2.0 ** np.arange(8)
    a = fid_curve(steps, 300 - slope * np.log2(steps / 100))
    b = fid_curve(steps, 300 - slope * np.log2(steps / (100 * ratio)))
    targets = shared_targets(a, b)
    target = targets[0] * (1 - place) + targets[-1] * place
    assert equal_fid_ratio(a, b, target).ratio == pytest.approx(ratio, rel=1e-9)
    assert np.allclose(ratio_curve(a, b)["ratio"], ratio, rtol=1e-9)


@given(falling, falling, places, st.floats(1e-6, 1e12))
def test_laws_of_the_ratio(fid_a: list[float], fid_b: list[float], place: float, scale: float) -> None:
    """Swapping the models inverts it, another unit of the amount does not change it, nor do points in any order."""
    x_a, x_b = (100.0 * 3.0 ** np.arange(len(fid)) for fid in (fid_a, fid_b))
    a, b = fid_curve(x_a, fid_a), fid_curve(x_b, fid_b)
    targets = shared_targets(a, b)
    if len(targets) == 0:
        assert max(fid_a[-1], fid_b[-1]) >= min(fid_a[0], fid_b[0])
        return
    target = float(np.interp(place, [0, 1], [targets[0], targets[-1]]))
    ratio = equal_fid_ratio(a, b, target).ratio
    assert math.log(equal_fid_ratio(b, a, target).ratio) == pytest.approx(-math.log(ratio), abs=1e-9)
    scaled = equal_fid_ratio(fid_curve(x_a * scale, fid_a), fid_curve(x_b * scale, fid_b), target).ratio
    assert scaled == pytest.approx(ratio, rel=1e-6)
    turned = fid_curve(x_a[::-1], fid_a[::-1])
    assert equal_fid_ratio(turned, b, target).ratio == ratio


@given(falling, places, places)
def test_a_lower_fid_is_never_reached_earlier(fid: list[float], one: float, other: float) -> None:
    curve = fid_curve(100.0 * 2.0 ** np.arange(len(fid)), fid)
    low, high = sorted(max(fid[-1], fid[0] + (fid[-1] - fid[0]) * share) for share in (one, other))
    assert reach(curve, low).amount >= reach(curve, high).amount * (1 - 1e-9)


@given(falling, falling, st.floats(0.3, 3.0), st.floats(-20.0, 20.0))
def test_an_affine_change_of_fid_moves_targets_and_no_ratio(
    fid_a: list[float], fid_b: list[float], slope: float, shift: float
) -> None:
    """FID is interpolated in a straight line, so a * FID + b at the same place of the scale gives the same ratio."""
    a, b = (fid_curve(100.0 * 2.0 ** np.arange(len(fid)), fid) for fid in (fid_a, fid_b))
    moved = [FidCurve(curve.amount, slope * curve.fid + shift) for curve in (a, b)]
    worst, best = min(fid_a[0], fid_b[0]), max(fid_a[-1], fid_b[-1])
    if worst - best < 1e-3:
        return
    for share in (0.25, 0.5):
        target = worst + share * (best - worst)
        plain, other = equal_fid_ratio(a, b, target), equal_fid_ratio(*moved, slope * target + shift)
        assert plain.ratio == pytest.approx(other.ratio, rel=1e-3)
