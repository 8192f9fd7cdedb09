"""Scores of forecasts against closed forms, and against the integrals that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from fcdm.laws.predictive import LEVELS, Predictive
from fcdm.laws.scores import compute_equivalent, crps_of_log, hit_interval, log_error, log_score, pit, skill

FREEDOMS = st.sampled_from([1.5, 2.0, 3.0, 7.0, 40.0, 1e6, math.inf])
STEPS = st.lists(st.floats(0, 0.5), min_size=len(LEVELS) - 1, max_size=len(LEVELS) - 1)


@st.composite
def forecasts(draw: st.DrawFn) -> Predictive:
    """Any quantiles: pieces without width among them."""
    logs = np.cumsum([draw(st.floats(-3, 5)), *draw(STEPS)])
    return Predictive(tuple(map(float, np.exp(logs))), draw(FREEDOMS))


def normal_crps(z: float, scale: float) -> float:
    """Gneiting and Raftery (2007), eq. 21."""
    return scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("z", [-40.0, -3.0, -0.2, 0.0, 1.0, 6.0])
def test_of_a_lognormal_forecast_every_score_is_the_normals(z: float) -> None:
    law = Predictive.log_t(20.0, 0.3)
    y = 20 * math.exp(0.3 * z)
    assert crps_of_log(law, y) == pytest.approx(normal_crps(z, 0.3), rel=1e-9)
    assert pit(law, y) == pytest.approx(stats.norm.cdf(z), rel=1e-6, abs=1e-300)
    assert log_score(law, y) == pytest.approx(stats.norm.logpdf(z) - math.log(0.3), rel=1e-9)


@pytest.mark.parametrize("freedom", [1.5, 2, 5, 30, 1e7])
@pytest.mark.parametrize("z", [-3.0, 0.0, 1.7])
def test_of_a_t_forecast_every_score_is_the_ts(freedom: float, z: float) -> None:
    law, y = Predictive.log_t(0.1, 0.02, freedom), 0.1 * math.exp(0.02 * z)
    t = stats.t(freedom)
    below, _ = quad(lambda u: t.cdf(u) ** 2, -math.inf, z)
    above, _ = quad(lambda u: t.sf(u) ** 2, z, math.inf)
    assert crps_of_log(law, y) == pytest.approx(0.02 * (below + above), rel=1e-6)
    assert pit(law, y) == pytest.approx(t.cdf(z))
    assert log_score(law, y) == pytest.approx(t.logpdf(z) - math.log(0.02))


@settings(max_examples=40)
@given(forecasts(), st.floats(-4, 8))
def test_the_crps_is_the_integral_that_defines_it(law: Predictive, log_y: float) -> None:
    z = np.sinh(np.linspace(-12, 12, 20001))
    logs = np.interp(z, law.places, law.logs)
    logs += law.slopes[0] * np.minimum(0, z - law.places[0]) + law.slopes[-1] * np.maximum(0, z - law.places[-1])
    middle = (logs[1:] + logs[:-1]) / 2
    share = stats.t.cdf((z[1:] + z[:-1]) / 2, law.freedom)
    outside = max(0.0, logs[0] - log_y, log_y - logs[-1])
    expected = float(np.square(share - (middle >= log_y)) @ np.diff(logs)) + outside
    assert crps_of_log(law, math.exp(log_y)) == pytest.approx(expected, rel=5e-3, abs=1e-3)


@settings(max_examples=60)
@given(forecasts(), st.floats(-4, 8))
def test_a_forecast_of_quantiles_is_a_distribution(law: Predictive, log_y: float) -> None:
    y = math.exp(log_y)
    share = law.cdf(y)
    assert 0 <= share <= law.cdf(y * 1.1) <= 1
    low, high = law.interval(0.8)
    assert low <= law.median <= high
    for level, value in zip(LEVELS, law.quantiles, strict=True):
        assert law.quantile(level) == value
        assert law.cdf(value) >= level - 1e-9
    if 1e-6 < share < 1 - 1e-6 and min(law.slopes) > 1e-6:
        assert law.quantile(share) == pytest.approx(y, rel=1e-6)
        step = 1e-6
        slope = (law.cdf(math.exp(log_y + step)) - law.cdf(math.exp(log_y - step))) / (2 * step)
        if all(abs(log_y - log) > 2 * step for log in law.logs):
            assert math.exp(law.log_density(log_y)) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_no_forecast_scores_better_than_the_truth_on_average() -> None:
    draws = np.exp(0.2 * stats.norm.ppf((np.arange(200) + 0.5) / 200))
    told = [Predictive.log_t(1.0, scale) for scale in (0.1, 0.2, 0.4)] + [Predictive.log_t(1.2, 0.2)]
    crps = [np.mean([crps_of_log(law, y) for y in draws]) for law in told]
    density = [np.mean([log_score(law, y) for y in draws]) for law in told]
    assert min(crps) == crps[1]
    assert max(density) == density[1]


def test_one_number_for_certain_has_its_absolute_error() -> None:
    law = Predictive.log_t(10.0, 0.0)
    assert crps_of_log(law, 12.0) == pytest.approx(math.log(1.2))
    assert crps_of_log(law, 8.0) == pytest.approx(math.log(1.25))
    assert [pit(law, y) for y in (9.0, 10.0, 11.0)] == [0, 1, 1]
    assert [log_score(law, y) for y in (9.0, 11.0)] == [-math.inf, -math.inf]
    assert log_error(11.0, 10.0) == pytest.approx(math.log(1.1))
    assert skill(0.05, crps_of_log(law, 12.0)) == pytest.approx(1 - 0.05 / math.log(1.2))
    assert math.isnan(skill(0.1, 0.0))


def test_an_error_in_compute_is_read_off_the_law() -> None:
    """y = 3 C^-0.5, and one with an offset, which no compute brings below it."""
    power = [(0.5, 3 * 0.5**-0.5), (2.0, 3 * 2**-0.5)]
    assert compute_equivalent(power, 3.0) == pytest.approx(1)
    assert compute_equivalent(power, 3 * 100**-0.5) == pytest.approx(100)
    assert compute_equivalent(power, 3 * 0.01**-0.5) == pytest.approx(0.01)
    multiples = np.geomspace(0.01, 100, 401)
    flat = [(float(c), float(0.1 + 0.01 * c**-0.5)) for c in multiples]
    assert compute_equivalent(flat, 0.1 + 0.01 / math.sqrt(1.3)) == pytest.approx(1.3, rel=1e-3)
    steep = [(1.0, 1.0), (2.0, 0.999)]
    assert [compute_equivalent(steep, y) for y in (0.01, 100.0)] == [math.inf, 0]
    assert [compute_equivalent(steep, 1.0, said) for said in (0.01, 1.0, 100.0)] == [0, 1, math.inf]


@pytest.mark.parametrize("said", [0.01, 0.1003, 0.11, 100.0])
def test_what_was_said_itself_is_one_and_above_one_is_better_than_said(said: float) -> None:
    """A forecast's median is seldom what the law's estimate says of the run."""
    curve = [(0.25, 0.102), (1.0, 0.1), (4.0, 0.099)]
    assert compute_equivalent(curve, said, said) == 1
    assert compute_equivalent(curve, said * 0.999, said) > 1 > compute_equivalent(curve, said * 1.001, said)
    for wrong in ([(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(2.0, 3.0), (1.0, 2.0)]):
        with pytest.raises(ValueError):
            compute_equivalent(wrong, 2.0)


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_interval_of_hits_is_the_binomials_own(hits: int, missed: int, level: float) -> None:
    low, high = hit_interval(hits, of := hits + missed, level)
    if of:
        exact = stats.binomtest(hits, of).proportion_ci(level, method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    else:
        assert (low, high) == (0, 1)


def test_eight_of_eight_is_63_percent_and_more() -> None:
    low, high = hit_interval(8, 8)
    assert (round(low, 2), high) == (0.63, 1)


@pytest.mark.parametrize(
    ("quantiles", "freedom"),
    [((1.0,) * 10, 5.0), ((0.0,) * 11, 5.0), ((2.0,) * 10 + (1.0,), 5.0), ((math.nan,) * 11, 5.0), ((1.0,) * 11, 1.0)],
)
def test_quantiles_that_are_none_are_refused(quantiles: tuple[float, ...], freedom: float) -> None:
    with pytest.raises(ValueError):
        Predictive(quantiles, freedom)
