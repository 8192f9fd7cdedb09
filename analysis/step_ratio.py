"""How many times fewer steps one model needs than another for the same FID. Pure functions on arrays.

Of every curve only the running minimum counts (what had been reached by then), interpolated as a straight line
of log FID over log steps between measured points. Nothing is extrapolated: a FID that a model had already passed
at its first measured point, or never reached, has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

FLOORS = 2.0
"""Targets below this many times the real-against-real floor are refused: there, noise decides."""
TARGETS = 33
LEAST_RANGE = 1.1
"""A shared range whose highest FID is less than this many times its lowest is too narrow to tell a ratio."""


@dataclass(frozen=True)
class RatioRange:
    """b's steps over a's at equal FID (above 1: a is faster)."""

    target: float
    """The headline FID: the geometric middle of the shared range."""
    ratio: float
    steps_a: float
    steps_b: float
    lowest: float
    highest: float
    """Over the shared targets."""
    best: float
    worst: float
    """The shared range of FIDs: from `worst` down to `best`."""
    cut_by_floor: bool
    """Both models reach lower FIDs than `best`, but those are below twice the floor and were refused."""

    @property
    def unclear(self) -> str | None:
        """Why this is no clear ratio; None: it is one."""
        if self.lowest < 1 < self.highest:
            return "it lies on both sides of 1"
        if self.worst < LEAST_RANGE * self.best:
            return f"both pass only FID {self.worst:.3g} to {self.best:.3g}"
        return None


def steps_to_reach(steps: ArrayLike, fid: ArrayLike, target: float) -> float | None:
    """Steps after which `fid` was first at or below `target`; None where that was not measured.

    `steps`, `fid`: shape (n,), in any order; points that are not finite and positive are left out.
    """
    x, y = _envelope(steps, fid)
    below = np.flatnonzero(y <= target)
    if len(below) == 0:
        return None
    first = int(below[0])
    if y[first] == target:
        return float(x[first])
    if first == 0:
        return None  # it was there before anybody looked
    share = np.log(y[first - 1] / target) / np.log(y[first - 1] / y[first])
    return float(np.exp(np.log(x[first - 1]) + share * np.log(x[first] / x[first - 1])))


def equal_fid_ratio(
    steps_a: ArrayLike, fid_a: ArrayLike, steps_b: ArrayLike, fid_b: ArrayLike, target: float
) -> float | None:
    """b's steps over a's to reach `target`; None where either was not measured. FLOPs serve as well."""
    a, b = steps_to_reach(steps_a, fid_a, target), steps_to_reach(steps_b, fid_b, target)
    return None if a is None or b is None else b / a


def shared_targets(fid_a: ArrayLike, fid_b: ArrayLike, count: int = TARGETS) -> np.ndarray:
    """FIDs that both curves pass, from the highest down, evenly in log, shape (count,) or (0,).

    `fid_a`, `fid_b`: in order of steps.
    """
    curves = [_envelope(np.arange(1, np.size(fid) + 1), fid)[1] for fid in (fid_a, fid_b)]
    if any(len(curve) == 0 for curve in curves):
        return np.empty(0)
    worst, best = min(curve[0] for curve in curves), max(curve[-1] for curve in curves)
    return np.geomspace(worst, best, count) if best < worst else np.empty(0)


def ratio_range(
    steps_a: ArrayLike, fid_a: ArrayLike, steps_b: ArrayLike, fid_b: ArrayLike, floor: float = 0.0
) -> RatioRange | str:
    """The ratio at the headline target and over all shared ones, or why there is none.

    `floor`: FID of real images against the reference; a target under twice it is refused (NaN: unknown, as 0).
    """
    (x_a, y_a), (x_b, y_b) = _envelope(steps_a, fid_a), _envelope(steps_b, fid_b)
    targets = shared_targets(y_a, y_b)
    if len(targets) == 0:
        return "not reached: there is no FID that both pass between two of their measured points"
    lowest_allowed = FLOORS * floor if np.isfinite(floor) else 0.0
    cut = bool(targets[-1] < lowest_allowed)
    if cut:
        if targets[0] <= lowest_allowed:
            return (
                f"refused: every FID that both reach is below {FLOORS:g} times the floor of {floor:.3g}, "
                "where noise decides; judge with more samples, or at smaller budgets"
            )
        targets = np.geomspace(targets[0], lowest_allowed, TARGETS)
    ratios = [equal_fid_ratio(x_a, y_a, x_b, y_b, float(target)) for target in targets]
    middle = float(np.sqrt(targets[0] * targets[-1]))
    a, b = steps_to_reach(x_a, y_a, middle), steps_to_reach(x_b, y_b, middle)
    measured = [ratio for ratio in ratios if ratio is not None]
    assert a is not None
    assert b is not None
    measured.append(b / a)
    return RatioRange(middle, b / a, a, b, min(measured), max(measured), float(targets[-1]), float(targets[0]), cut)


def _envelope(steps: ArrayLike, fid: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(steps, lowest FID so far), both rising and falling respectively, shape (m,)."""
    x, y = np.asarray(steps, dtype=float), np.asarray(fid, dtype=float)
    fit = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    order = np.argsort(x[fit], kind="stable")
    return x[fit][order], np.minimum.accumulate(y[fit][order])
