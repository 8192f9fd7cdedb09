"""What points over size and data tell of E: a profile likelihood, whose limit is what the draws say it has to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcdm.laws.joint_solver import solve_joint
from fcdm.laws.predictive import LEVEL
from fcdm.laws.surface_points import SurfacePoints

SHARES = np.concatenate([[1e-5], np.linspace(0.1, 0.9, 9), 1 - np.geomspace(0.05, 1e-5, 5)])
"""Where the profile is computed first, as shares of the lowest mean, which E cannot exceed."""
FINER = 18
"""And then at so many places between those that enclose its interval."""


@dataclass(frozen=True)
class OffsetProfile:
    """At each E the best of the other four numbers, and how much worse the points are met than at the best E."""

    offsets: np.ndarray
    """E, rising, up to `lowest`."""
    excess: np.ndarray
    """The objective above its least, at each."""
    limit: float
    """The excess that 95 % of draws keep, where they are held to the E that they were drawn with; stretched by t."""
    scale: float
    """The mean excess of those draws: over it, an excess is like F with 1 degree of freedom."""
    lowest: float
    """The lowest mean over seeds."""

    @property
    def ends(self) -> tuple[float, float]:
        """E's interval; 0 or the lowest mean where it is open on that side."""
        inside = np.flatnonzero(self.excess <= self.limit)
        if not len(inside):  # between two places of the grid
            inside = np.array([int(np.argmin(self.excess))])
        first, last = int(inside[0]), int(inside[-1])
        low = 0.0 if first == 0 else self._crossing(first - 1)
        high = self.lowest if last == len(self.offsets) - 1 else self._crossing(last)
        return low, high

    @property
    def untold(self) -> str:
        """Why E is no number; "" where it is one."""
        low, high = self.ends
        if low == 0 and high >= self.lowest:
            return "any E from 0 to the lowest mean is as good"
        if low == 0:
            return f"E may as well be 0 (its interval ends at {high:.3g})"
        return f"E may as well be the lowest mean, {self.lowest:.3g}" if high >= self.lowest else ""

    def _crossing(self, place: int) -> float:
        """Where a straight line between two neighbours passes the limit; at the better one where none does."""
        a, b = self.excess[place] - self.limit, self.excess[place + 1] - self.limit
        share = np.clip(a / (a - b), 0, 1) if a != b else 0.5
        return float(self.offsets[place] + (self.offsets[place + 1] - self.offsets[place]) * share)


def profile_offset(
    points: SurfacePoints,
    law: np.ndarray,
    least: float,
    delta: float,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    stretch: float,
    form: str,
) -> OffsetProfile:
    """`law`: the estimate (5,), and `least` its objective. `drawn`: (y, objectives, lowest means) of draws from
    it, (draws, points) and twice (draws,). `stretch`: t over z, of what noise and misfit were estimated from."""
    lowest = points.lowest
    y, objectives, lows = drawn
    true = np.minimum(max(float(law[0]), lowest * SHARES[0]), lows)
    held = solve_joint(points.n, points.d, y, delta, lowest=lows, first=law, offsets=true, form=form)[1]
    ratios = np.maximum(held - objectives, 0.0)
    limit = float(np.quantile(ratios, LEVEL)) * stretch**2
    offsets = np.unique(np.append(lowest * SHARES, np.clip(law[0], lowest * SHARES[0], lowest * SHARES[-1])))
    costs = costs_at(points, offsets, law, delta, form)
    inside = np.flatnonzero(costs <= max(min(least, float(costs.min())) + limit, float(costs.min())))
    around = (offsets[max(inside[0] - 1, 0)], offsets[min(inside[-1] + 1, len(offsets) - 1)])
    finer = np.setdiff1d(np.linspace(*around, FINER + 2)[1:-1], offsets)
    costs = np.concatenate([costs, costs_at(points, finer, law, delta, form)])
    offsets = np.concatenate([offsets, finer])
    order = np.argsort(offsets)
    excess = np.maximum(costs - min(least, float(costs.min())), 0.0)
    return OffsetProfile(offsets[order], excess[order], limit, float(ratios.mean()), lowest)


def costs_at(points: SurfacePoints, offsets: np.ndarray, law: np.ndarray, delta: float, form: str) -> np.ndarray:
    """The least objective at each E (offsets,), found near `law` (5,)."""
    sets = np.broadcast_to(points.y, (len(offsets), len(points.y)))
    _, costs, _ = solve_joint(
        points.n, points.d, sets, delta, lowest=points.lowest, first=law, offsets=offsets, form=form
    )
    return costs
