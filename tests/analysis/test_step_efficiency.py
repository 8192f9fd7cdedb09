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
    log_slope,
    noise_factor,
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
    """Worked by hand: FCDM-XL passes FID 9.62 a share ln(10.72 / 9.62) / ln(10.72 / 7.91) = 0.356 of the way, in log
    steps, from 400K to 1M: 554K steps, against DiT-XL/2's 7M."""
    fcdm, dit = of_paper("FCDM-XL"), of_paper("DiT-XL/2")
    found = equal_fid_ratio(fcdm, dit, 9.62)
    assert found.a.amount == pytest.approx(400e3 * 2.5 ** (math.log(10.72 / 9.62) / math.log(10.72 / 7.91)))
    assert (found.a.how, found.b.how) == ("interpolated", "measured")
    assert round(found.ratio, 1) == 12.6
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


@pytest.mark.parametrize(("axis", "at"), [("steps", (5.8, 12.6)), ("train_flops", (10.7, 23.2))])
def test_the_extremes_of_a_ratio_lie_at_measured_points(axis: str, at: tuple[float, float]) -> None:
    a, b = of_paper("FCDM-XL", axis), of_paper("DiT-XL/2", axis)
    span = ratio_range(a.amount, a.fid, b.amount, b.fid)
    assert isinstance(span, RatioRange)
    knots = [equal_fid_ratio(a, b, fid).ratio for fid in (10.67, 9.62)]
    assert (span.lowest, span.highest) == pytest.approx((knots[0], knots[1]), rel=1e-12)
    assert (round(span.lowest, 1), round(span.highest, 1)) == at


def test_where_a_curve_stood_still_both_sides_count() -> None:
    """a has 40 at 200 and still at 400: at 40 it needs 200 steps, a hair below 400; b, from 60 at 200 to 20 at 400,
    needs 200 x 2^(ln 1.5 / ln 3) = 258 for both."""
    a, b = fid_curve(STEPS, [80.0, 40.0, 40.0, 10.0]), fid_curve(STEPS, [90.0, 60.0, 20.0, 5.0])
    span = ratio_range(a.amount, a.fid, b.amount, b.fid)
    assert isinstance(span, RatioRange)
    at = 200 * 2 ** (math.log(60 / 40) / math.log(60 / 20))
    assert equal_fid_ratio(a, b, 40.0).ratio == pytest.approx(at / 200)
    assert span.lowest <= at / 400 * (1 + 1e-9)
    assert span.highest >= at / 200


def test_seven_per_cent_of_one_model_or_of_both_in_the_published_ratio() -> None:
    """By hand, at FID 9.62: DiT's FIDs 7 % lower reach it where they had 9.62 / 0.93 = 10.34, between 2.352M and 7M;
    FCDM's 7 % higher where they had 9.62 / 1.07 = 8.99, between 400K and 1M."""
    row = ratio_curve(of_paper("FCDM-XL"), of_paper("DiT-XL/2"), error=0.07, targets=[9.62]).iloc[0]
    dit = 2.352e6 * (7 / 2.352) ** (math.log(10.67 / (9.62 / 0.93)) / math.log(10.67 / 9.62))
    fcdm = 400e3 * 2.5 ** (math.log(10.72 / 9.62) / math.log(10.72 / 7.91))
    slower = 400e3 * 2.5 ** (math.log(10.72 / (9.62 / 1.07)) / math.log(10.72 / 7.91))
    assert row["low"] == pytest.approx(dit / fcdm)
    assert row["low_both"] == pytest.approx(dit / slower)
    assert (round(row["low"], 1), round(row["low_both"], 1)) == (5.9, 4.8)
    assert row["high_open"]  # DiT times 1.07 never got to 9.62, so the ratio may be higher than any number here
    assert row["high_both_open"]
    assert not row["low_open"]
    assert not row["low_both_open"]


def test_an_error_that_is_not_known_moves_nothing() -> None:
    curve = ratio_curve(of_paper("FCDM-XL"), of_paper("DiT-XL/2"))
    assert curve[["low", "high", "low_both", "high_both"]].isna().to_numpy().all()
    assert not curve.filter(like="_open").to_numpy().any()


@given(st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.floats(1.5, 6.0), st.floats(0.001, 0.2))
def test_what_an_error_does_to_the_ratio_of_power_laws(p: float, q: float, ratio: float, error: float) -> None:
    """FID = steps^-p: an error of e moves the amount by (1 + e)^(1/p), exactly, at every target."""
    steps = 100.0 * 2.0 ** np.arange(12)
    a = fid_curve(steps, 1000 * (steps / 100) ** -p)
    b = fid_curve(steps, 1000 * (steps / (100 * ratio)) ** -q)
    target = float(np.sqrt(max(a.fid[-1], b.fid[-1]) * min(a.fid[0], b.fid[0])))
    row = ratio_curve(a, b, error=error, targets=[target]).iloc[0]
    up, down = (1 + error), (1 - error)
    if not (row["low_open"] or row["low_both_open"]):
        assert row["low"] == pytest.approx(row["ratio"] * min(up ** (-1 / p), down ** (1 / q)))
        assert row["low_both"] == pytest.approx(row["ratio"] * up ** (-1 / p) * down ** (1 / q))
    if not (row["high_open"] or row["high_both_open"]):
        assert row["high"] == pytest.approx(row["ratio"] * max(down ** (-1 / p), up ** (1 / q)))
        assert row["high_both"] == pytest.approx(row["ratio"] * down ** (-1 / p) * up ** (1 / q))
    assert (log_slope(a, target), log_slope(b, target)) == pytest.approx((-1 / p, -1 / q))
    one = noise_factor(a, b, target, error, 0.0)
    assert one == pytest.approx(math.exp(error / p))
    assert noise_factor(a, b, target, error, error) == pytest.approx(math.exp(error * math.hypot(1 / p, 1 / q)))


def test_a_slope_at_a_bend_and_outside() -> None:
    """100 to 200 steps: FID 80 to 40, slope -1; then 40 to 20 takes a factor of 4, slope -2; at the bend the mean."""
    curve = fid_curve([100.0, 200.0, 800.0], [80.0, 40.0, 20.0])
    assert log_slope(curve, 60.0) == pytest.approx(-1.0)
    assert log_slope(curve, 30.0) == pytest.approx(-2.0)
    assert log_slope(curve, 40.0) == pytest.approx(-1.5)
    assert log_slope(curve, 20.0) == pytest.approx(-2.0)
    assert math.isnan(log_slope(curve, 10.0))


def test_the_whole_ratio_curve_of_the_published_points() -> None:
    curve = ratio_curve(of_paper("FCDM-XL"), of_paper("DiT-XL/2"), error=0.07)
    assert (curve["target"].iloc[0], curve["target"].iloc[-1]) == (10.72, 9.62)
    assert (curve["low_both"] <= curve["low"]).all()
    assert (curve["high"] <= curve["high_both"]).all()
    assert (curve["low"] <= curve["ratio"]).all()
    assert (curve["ratio"] <= curve["high"]).all()
    # DiT's curve flattens: the lower the FID, the higher the ratio (but for DiT's own bend at 10.67)
    assert curve["ratio"][curve["target"] < 10.67].is_monotonic_increasing
    assert (round(curve["ratio"].min(), 1), round(curve["ratio"].max(), 1)) == (5.8, 12.6)
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
    assert reach(curve, 40 / 2**0.5).amount == pytest.approx(200 * 2**0.5)  # FID falls as 1 / steps: exact everywhere
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
    assert reach(curve, 40.0).amount == pytest.approx(100 * 2**0.5)  # half of the way from 80 to 20, in log
    assert reach(curve, 20.0).amount == pytest.approx(200.0)
    assert reach(curve, 200**0.5).amount == pytest.approx(400 * 2**0.5)


def test_points_without_a_fid_are_named() -> None:
    curve = fid_curve(np.append(STEPS[::-1], [1600.0, 3200.0]), np.append(FID[::-1], [np.nan, np.inf]))
    assert curve.notes == ("no FID at 1,600 (nan)", "no FID at 3,200 (inf)")
    assert reach(curve, 30.0) == reach(fid_curve(STEPS, FID), 30.0)
    assert fid_curve(STEPS, [80.0, 40.0, 0.0, -1.0]).notes == (
        "FID 0 at 400 is not above 0: no difference is measurable",
        "FID -1 at 800 is not above 0: no difference is measurable",
    )


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


@given(st.floats(1.1, 20.0), st.floats(0.3, 2.0), places)
def test_ratio_of_power_laws_is_exact_at_every_target(ratio: float, power: float, place: float) -> None:
    """FID = 300 (steps / c)^-p: log FID is straight over log steps, so interpolation makes no error."""
    steps = 100.0 * 2.0 ** np.arange(8)
    a = fid_curve(steps, 300 * (steps / 100) ** -power)
    b = fid_curve(steps, 300 * (steps / (100 * ratio)) ** -power)
    targets = shared_targets(a, b)
    target = targets[0] ** (1 - place) * targets[-1] ** place
    assert equal_fid_ratio(a, b, target).ratio == pytest.approx(ratio, rel=1e-9)
    assert np.allclose(ratio_curve(a, b)["ratio"], ratio, rtol=1e-9)


@pytest.mark.parametrize("factor", [2, 4])
def test_log_fid_errs_less_than_fid_where_there_is_an_offset(factor: int) -> None:
    """FID = 4 + 100 (steps / c)^-1.3, a true ratio of 2.5 and no noise, above twice the offset: straight lines of FID
    over log steps, drawn here by hand, err more than twice as much."""
    truth, scales = 2.5, (90.0, 225.0)
    steps = 100.0 * float(factor) ** np.arange(8)
    a, b = (fid_curve(steps, 4 + 100 * (steps / scale) ** -1.3) for scale in scales)
    found = ratio_curve(a, b, floor=4.0)
    linear = [np.interp(-found["target"], -curve.fid, np.log(curve.amount)) for curve in (a, b)]
    ours, theirs = (np.abs(np.log(ratios / truth)).max() for ratios in (found["ratio"], np.exp(linear[1] - linear[0])))
    assert ours < theirs / 2
    assert ours < {2: 0.04, 4: 0.13}[factor]


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


@given(falling, falling, st.floats(0.3, 3.0), st.floats(0.01, 100.0))
def test_a_power_of_fid_moves_targets_and_no_ratio(
    fid_a: list[float], fid_b: list[float], power: float, scale: float
) -> None:
    """Log FID is interpolated in a straight line, so scale * FID^power at the same place gives the same ratio."""
    a, b = (fid_curve(100.0 * 2.0 ** np.arange(len(fid)), fid) for fid in (fid_a, fid_b))
    moved = [FidCurve(curve.amount, scale * curve.fid**power) for curve in (a, b)]
    worst, best = min(fid_a[0], fid_b[0]), max(fid_a[-1], fid_b[-1])
    if worst < 1.001 * best:
        return
    for share in (0.25, 0.5):
        target = worst ** (1 - share) * best**share
        plain, other = equal_fid_ratio(a, b, target), equal_fid_ratio(*moved, scale * target**power)
        assert plain.ratio == pytest.approx(other.ratio, rel=1e-3)
