"""A forecast of one positive number as a distribution, kept as a few quantiles."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

LEVELS = (0.01, 0.025, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.975, 0.99)
"""Shares whose quantiles a forecast states."""
LEVEL = 0.95
"""Of an interval that is told alone, and by which a forecast is judged."""
SURE = f"{100 * LEVEL:.0f} %"
"""LEVEL in words."""


@dataclass(frozen=True)
class Predictive:
    """A forecast of one positive number, by its quantiles at LEVELS.

    Between stated quantiles log y is linear in Student's t with `freedom` degrees of freedom, and goes on in the last
    slope beyond the outer ones: so a density, a PIT and a CRPS follow from the quantiles alone. Quantiles that are all
    equal say one number for certain. Raises ValueError for quantiles that are none.
    """

    quantiles: tuple[float, ...]
    """At LEVELS, above 0, not falling."""
    freedom: float
    """Degrees of freedom, above 1; inf: normal."""

    def __post_init__(self) -> None:
        values = self.quantiles
        if len(values) != len(LEVELS) or not all(0 < value < math.inf for value in values):
            raise ValueError(f"{values}: {len(LEVELS)} numbers above 0, at {LEVELS}")
        if any(after < before for before, after in pairwise(values)):
            raise ValueError(f"{values}: quantiles do not fall")
        if not self.freedom > 1:
            raise ValueError(f"{self.freedom} degrees of freedom: above 1, else the CRPS is infinite")

    @classmethod
    def log_t(cls, median: float, scale: float, freedom: float = math.inf) -> Predictive:
        """log y is `scale` times Student's t around the logarithm of `median`; scale 0: that number for certain."""
        return cls(tuple(median * math.exp(scale * _z(level, freedom)) for level in LEVELS), freedom)

    @property
    def median(self) -> float:
        return self.quantiles[LEVELS.index(0.5)]

    def interval(self, level: float) -> tuple[float, float]:
        """(low, high) with as much left out below as above: level 0.95 is from 2.5 to 97.5 %."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def quantile(self, share: float) -> float:
        """The number below which y is with this probability, between 0 and 1 without both."""
        if (stated := round(share, 12)) in LEVELS:
            return self.quantiles[LEVELS.index(stated)]
        z = _z(share, self.freedom)
        piece = min(max(bisect_right(self.places, z) - 1, 0), len(self.slopes) - 1)
        log_y = self.logs[piece] + self.slopes[piece] * (z - self.places[piece])
        return math.exp(log_y) if log_y < 709 else math.inf

    def cdf(self, y: float) -> float:
        """The probability that the number is at most y."""
        from scipy.special import stdtr

        place = self.place(math.log(y))
        return float(stdtr(self.freedom, place)) if math.isfinite(place) else float(place > 0)

    def log_density(self, log_y: float) -> float:
        """The logarithm of the density of log y; -inf where it cannot be, inf where it is with some probability.

        At a stated quantile, where the slope changes, it is that of the piece above.
        """
        if any(low == log_y and not slope for low, slope in zip(self.logs, self.slopes, strict=False)):
            return math.inf
        place = self.place(log_y)
        if math.isinf(place):
            return -math.inf
        slope = self.slopes[min(max(bisect_right(self.logs, log_y) - 1, 0), len(self.slopes) - 1)]
        return log_t_density(place, self.freedom) - math.log(slope)

    def place(self, log_y: float) -> float:
        """The z of Student's t at which log y is met, the largest of several; -inf or inf beyond all."""
        at = bisect_right(self.logs, log_y)
        if at in (0, len(self.logs)):
            piece = 0 if at == 0 else -1
            off = log_y - self.logs[piece]
            if self.slopes[piece]:
                return self.places[piece] + off / self.slopes[piece]
            return math.inf if off >= 0 else -math.inf
        return self.places[at - 1] + (log_y - self.logs[at - 1]) / self.slopes[at - 1]

    @cached_property
    def places(self) -> tuple[float, ...]:
        """Student's t at LEVELS."""
        return tuple(_z(level, self.freedom) for level in LEVELS)

    @cached_property
    def logs(self) -> tuple[float, ...]:
        """Logarithms of the quantiles."""
        return tuple(map(math.log, self.quantiles))

    @cached_property
    def slopes(self) -> tuple[float, ...]:
        """Of log y over z, between each quantile and the next; the outer ones go on for ever."""
        pairs = zip(self.logs, self.logs[1:], self.places, self.places[1:], strict=False)
        return tuple((high - low) / (after - before) for low, high, before, after in pairs)


def _z(share: float, freedom: float) -> float:
    """The quantile of Student's t; of the normal where freedom is inf."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


def log_t_density(z: float, freedom: float) -> float:
    """ln of the density of Student's t; of the normal where freedom is inf."""
    if math.isinf(freedom):
        return -z * z / 2 - math.log(2 * math.pi) / 2
    half = freedom / 2
    scale = math.lgamma(half + 0.5) - math.lgamma(half) - math.log(math.pi * freedom) / 2
    return scale - (half + 0.5) * math.log1p(z * z / freedom)
