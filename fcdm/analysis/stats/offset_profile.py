"""E's interval: a profile likelihood. At each E the best A and alpha, and how much worse the points are met."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from fcdm.analysis.stats.power_law import PowerLaw, solve

SHARES = np.concatenate([[1e-5], np.linspace(0.02, 0.98, 49), 1 - np.geomspace(0.018, 1e-5, 12)])
"""Where the profile is computed, as shares of the bound of E."""


def offset_profile(
    law: PowerLaw,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    lowest: float,
    variance: float,
    freedom: float,
    level: float,
    huber: float,
) -> tuple[float, float]:
    """The interval (low, high) of E; 0 or `lowest` where the profile is open on that side.

    All E whose objective exceeds the lowest by at most t^2 s^2 / 2: a likelihood ratio with the variance s^2 of an
    independent piece's log y (`weights` sum up to the number of pieces), which has `freedom` degrees of freedom. The
    variance is the fit's own where it is more than the seeds', so that misfit widens the interval.
    """
    offsets = np.unique(np.concatenate([lowest * SHARES, [max(law.offset, 1e-5 * lowest)]]))
    repeat = (len(offsets), len(x))
    starts = np.column_stack([offsets, np.full_like(offsets, law.scale), np.full_like(offsets, law.exponent)])
    _, objective = solve(
        x, np.broadcast_to(y, repeat), np.broadcast_to(weights, repeat), huber, starts, lowest=lowest, offsets=offsets
    )
    excess = objective - objective.min() - 0.5 * float(stdtrit(freedom, (1 + level) / 2)) ** 2 * variance
    inside = np.flatnonzero(excess <= 0)
    first, last = int(inside[0]), int(inside[-1])
    low = 0.0 if first == 0 else _crossing(offsets, excess, first - 1)
    high = lowest if last == len(offsets) - 1 else _crossing(offsets, excess, last)
    return low, high


def _crossing(offsets: np.ndarray, excess: np.ndarray, place: int) -> float:
    """Where a straight line between two neighbours passes 0."""
    a, b = excess[place], excess[place + 1]
    return float(offsets[place] + (offsets[place + 1] - offsets[place]) * a / (a - b))
