"""How good a forecast was once the number is measured: proper scores, errors, and what a count of hits tells.

All of them go by the logarithm of the number: FID and loss are positive, and a factor is a factor everywhere.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from fcdm.laws.predictive import LEVEL, Predictive, log_t_density


def log_error(forecast: float, measured: float) -> float:
    """ln(forecast / measured): 0.1 says that the forecast was about 10 % too high, and so the run better than that."""
    return math.log(forecast / measured)


def pit(law: Predictive, measured: float) -> float:
    """The probability integral transform: the share of the forecast at or below what was measured. Uniform over many
    forecasts that say their uncertainty truly. Dawid (1984), JRSS A 147, 278."""
    return law.cdf(measured)


def log_score(law: Predictive, measured: float) -> float:
    """ln of the forecast's density of ln y at what was measured: larger is better. Good (1952), JRSS B 14, 107."""
    return law.log_density(math.log(measured))


def crps_of_log(law: Predictive, measured: float) -> float:
    """The continuous ranked probability score of ln y, exactly: smaller is better, 0 at best. In units of ln y.

    CRPS(F, x) = integral of (F(u) - [u >= x])^2 du (Gneiting and Raftery 2007, JASA 102, eq. 20). With u = Q(z) in
    pieces of slope b over Student's t, it is the sum over the pieces below x of b (G(high) - G(low)) and over those
    above of b (G(-low) - G(-high)), where G(z) is the integral of the squared distribution function up to z. Of a
    forecast that is one number for certain it is the absolute error.
    """
    log_y = math.log(measured)
    place = law.place(log_y)
    ends = [-math.inf, *law.places[1:-1], math.inf]  # the outer slopes go on
    total = max(0.0, law.logs[0] - log_y, log_y - law.logs[-1]) if math.isinf(place) else 0.0
    for (low, high), slope in zip(pairwise(ends), law.slopes, strict=True):
        if slope:
            at = min(max(place, low), high)
            below = _squared_up_to(at, law.freedom) - _squared_up_to(low, law.freedom)
            above = _squared_up_to(-at, law.freedom) - _squared_up_to(-high, law.freedom)
            total += slope * (below + above)
    return total


def skill(crps: float, crps_of_baseline: float) -> float:
    """1 - CRPS / CRPS of the baseline: 1 is perfect, 0 no better, below 0 worse. NaN where the baseline was perfect.

    Of several forecasts it is of their sums, or means, never the mean of their skills.
    """
    return 1 - crps / crps_of_baseline if crps_of_baseline else math.nan


def compute_equivalent(curve: Sequence[tuple[float, float]], measured: float, said: float | None = None) -> float:
    """The compute at which the law says what was measured, over that at which it says what a forecast said: 0.5 means
    that half would have done, so the run came out worse than its forecast; 1 is as said, above 1 better. 0 or inf: at
    no compute.

    curve: (multiple of the run's compute, what the law says there), two or more, in rising order and falling values;
    between them ln of the value is linear in ln of compute, and beyond them goes on in the last slope. A law with an
    offset meets no number below it: give as many points as reach it. said: the forecast's median, which is seldom to
    the last digit what the law says of the run, or a baseline; None: what the curve says at 1. Raises ValueError for a
    curve that is none.
    """
    if len(curve) < 2 or any(not (0 < x < x2 and y > y2 > 0) for (x, y), (x2, y2) in pairwise(curve)):
        raise ValueError(f"{curve}: two or more points, compute rising and values falling")
    exponent = _log_compute(curve, measured) - (0.0 if said is None else _log_compute(curve, said))
    return math.exp(exponent) if abs(exponent) < _BEYOND else (math.inf if exponent > 0 else 0.0)


def _log_compute(curve: Sequence[tuple[float, float]], value: float) -> float:
    """ln of the multiple of compute at which a curve has a value."""
    falling = [-y for _, y in curve]
    piece = min(max(bisect_left(falling, -value) - 1, 0), len(curve) - 2)
    (x, y), (x2, y2) = curve[piece], curve[piece + 1]
    return math.log(value / y) / math.log(y2 / y) * math.log(x2 / x) + math.log(x)


_BEYOND = 700.0
"""Logarithms that no float holds."""


def hit_interval(hits: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share of which `hits` of `of` were seen: 8 of 8 is 0.63 to 1. (0, 1) of none.

    Clopper and Pearson (1934), Biometrika 26, 404: covers at least `level`, whatever the share.
    """
    from scipy.special import betaincinv

    if not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of}")
    tail = (1 - level) / 2
    low = float(betaincinv(hits, of - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0
    return low, high


def _squared_up_to(z: float, freedom: float) -> float:
    """G(z): the integral of F^2 from -inf to z, F the distribution function of Student's t with n degrees of freedom.

    By parts, with f the density: z F^2 + 2 F f (n + z^2) / (n - 1) - c F'(z sqrt((2n - 1) / n)), F' with 2n - 1 degrees
    of freedom and c = 2 sqrt(n) B(1/2, n - 1/2) / ((n - 1) B(1/2, n/2)^2); of the normal
    z F^2 + 2 F f - F(sqrt(2) z) / sqrt(pi). Both as in Jordan, Krueger and Lerch (2019), J. Stat. Softw. 90(12).
    """
    if z == -math.inf:
        return 0.0
    if math.isinf(freedom):
        from scipy.special import ndtr

        share, density = float(ndtr(z)), math.exp(log_t_density(z, freedom))
        return z * share**2 + 2 * share * density - float(ndtr(math.sqrt(2) * z)) / math.sqrt(math.pi)
    from scipy.special import betaln, stdtr

    share, density = float(stdtr(freedom, z)), math.exp(log_t_density(z, freedom))
    wide = 2 * freedom - 1
    constant = 2 * math.sqrt(freedom) / (freedom - 1)
    constant *= math.exp(float(betaln(0.5, freedom - 0.5)) - 2 * float(betaln(0.5, freedom / 2)))
    spread = share * density * (freedom + z * z) / (freedom - 1)
    return z * share**2 + 2 * spread - constant * float(stdtr(wide, z * math.sqrt(wide / freedom)))
