"""How many times less one model needs than another: two different questions, never one name for both.

`budget_ratio`: the ratio of two budgets at which two models were evaluated, whatever FID each had there (the abstract's
7x and 7.5x). `equal_fid_ratio`: the ratio of what each had spent when it reached the same FID. Both are b's amount
over a's, so above 1 a needs less; an amount is steps, training FLOPs or device-seconds. Pure functions on arrays.

Of every curve only the running minimum counts (what had been reached by then); between measured points log FID is a
straight line over log amount. (FID itself over log amount errs: at a constant true ratio of 2.5 and budgets x4 it says
1.91 to 3.13, log FID 2.24 to 2.64.) Nothing is extrapolated: where a FID was passed before the first measured point, or
never reached, the ratio is NaN, and what can be said is a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fcdm.analysis.data.curves import NOT_ABOVE_0, has_log, is_distance

FLOORS = 2.0
"""Targets below this many times the real-against-real floor are refused: there, noise decides."""
TARGETS = 33
LEAST_RANGE = 1.1
"""A shared range whose highest FID is less than this many times its lowest is too narrow to tell a ratio."""


@dataclass(frozen=True)
class BudgetRatio:
    """b's budget over a's. Says nothing of equal FID by itself."""

    ratio: float
    fid_a: float
    fid_b: float
    """At these budgets; NaN: not known."""
    earlier_b: float = np.inf
    """The lowest FID that b had at a smaller budget; inf: none is known."""

    @property
    def bounds_equal_fid(self) -> bool:
        """a is at least as good with its budget as b with its own: at b's FID, a needs `ratio` times less or better.

        Only where b had never been as good before: else it needed less than its budget for that FID.
        """
        return bool(self.fid_a <= self.fid_b < self.earlier_b)


@dataclass(frozen=True)
class FidCurve:
    """What had been reached by when: `amount` rising and `fid` falling, shape (n,)."""

    amount: np.ndarray
    fid: np.ndarray
    notes: tuple[str, ...] = ()
    """What the curve does not show: points without a FID, a FID that rose."""
    distance: str = "FID"
    """What its FIDs are, by name."""


@dataclass(frozen=True)
class Reach:
    """What a model had spent when it reached a FID. `amount` is NaN where that lies outside what was measured."""

    amount: float
    at_least: float
    at_most: float
    """Bounds of the amount: the amount itself, or what the end of the curve tells."""
    how: str
    """`measured`, `interpolated`, `before the first point`, `not reached`."""


@dataclass(frozen=True)
class EqualFid:
    """b's amount over a's at the same FID; `lowest` and `highest` bound it (0 and inf: nothing is known)."""

    target: float
    a: Reach
    b: Reach
    ratio: float
    lowest: float
    highest: float
    refused: str | None = None


@dataclass(frozen=True)
class RatioRange:
    """b's amount over a's at equal FID (above 1: a is faster), over all targets that both curves pass."""

    target: float
    """The headline FID: the geometric middle of the shared range."""
    ratio: float
    steps_a: float
    steps_b: float
    """Amounts, whatever the axis is."""
    lowest: float
    highest: float
    """Over the shared targets."""
    best: float
    worst: float
    """The shared range of FIDs: from `worst` down to `best`."""
    at_worst: float
    at_best: float
    """The ratio at the two ends of the range."""
    lowest_at: float
    highest_at: float
    """The FIDs at which it is lowest and highest."""
    cut_by_floor: bool
    """Both models reach lower FIDs than `best`, but those are below twice the floor and were refused."""
    distance: str = "FID"
    """What these FIDs are, by name."""

    @property
    def unclear(self) -> str | None:
        """Why this is no clear ratio; None: it is one."""
        if self.lowest < 1 < self.highest:
            return "it lies on both sides of 1"
        if self.worst < LEAST_RANGE * self.best:
            return f"both pass only {self.distance} {self.worst:.3g} to {self.best:.3g}"
        return None


def budget_ratio(
    budget_a: float, budget_b: float, fid_a: float = np.nan, fid_b: float = np.nan, earlier_b: ArrayLike = ()
) -> BudgetRatio:
    """b's budget over a's, with the FIDs measured there (NaN: not known) and those of b at smaller budgets, (n,)."""
    earlier = np.asarray(earlier_b, dtype=float)
    return BudgetRatio(budget_b / budget_a, fid_a, fid_b, float(np.min(earlier[is_distance(earlier)], initial=np.inf)))


def fid_curve(amount: ArrayLike, fid: ArrayLike, distance: str = "FID") -> FidCurve:
    """The running minimum of `fid` over `amount`, both shape (n,), in any order. `notes` name what it hides."""
    x, y = np.asarray(amount, dtype=float), np.asarray(fid, dtype=float)
    fit = np.isfinite(x) & (x > 0) & has_log(y)
    notes = [_why_not(at, value, distance) for at, value in zip(x[~fit], y[~fit], strict=True)]
    order = np.argsort(x[fit], kind="stable")
    x, y = x[fit][order], y[fit][order]
    lowest = np.minimum.accumulate(y)
    for at, value, best in zip(x, y, lowest, strict=True):
        if value > best:
            notes.append(f"{distance} rose to {value:.4g} at {at:,.6g}: the {best:.4g} reached before counts on")
    return FidCurve(x, lowest, tuple(notes), distance)


def _why_not(amount: float, fid: float, distance: str) -> str:
    """Of a point that has no place on the curve."""
    if is_distance(fid):
        return f"{distance} {fid:g} at {amount:,.6g} is {NOT_ABOVE_0}"
    return f"no {distance} at {amount:,.6g} ({fid:g})"


def curve_notes(name: str, points: pd.DataFrame, distance: str = "FID") -> list[str]:
    """What the running minimum of a curve hides, for a reader of what was computed from it."""
    return [f"{name}: {note}" for note in fid_curve(points["steps"], points["fid"], distance).notes]


def log_amounts(log_amount: np.ndarray, fid: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log amount at which each target was first reached, shape (..., m); -inf before the first point, inf never.

    `log_amount`: (..., n), rising. `fid`: (..., n), of which the running minimum counts, of those above 0. `targets`:
    (m,), above 0.
    """
    above = np.where(np.asarray(fid) > 0, fid, np.inf)
    x, y = np.broadcast_arrays(log_amount, np.minimum.accumulate(above, axis=-1))
    below = y[..., None, :] <= targets[:, None]
    reached = below.any(-1)
    after = below.argmax(-1)
    before = np.maximum(after - 1, 0)
    (x0, x1), (y0, y1) = ((np.take_along_axis(of, before, -1), np.take_along_axis(of, after, -1)) for of in (x, y))
    inside = reached & (after > 0) & np.isfinite(y0)
    higher, lower = np.where(inside, y0, np.e), np.where(inside, y1, 1.0)
    share = np.log(higher / targets) / np.where(inside, np.log(higher / lower), 1.0)
    at_first = np.where(y1 == targets, x1, -np.inf)
    return np.where(inside, x0 + share * (x1 - x0), np.where(reached, at_first, np.inf))


def reach(curve: FidCurve, target: float) -> Reach:
    """What had been spent when the curve was first at or below `target`; bounds where that was not measured."""
    if len(curve.amount) == 0:
        return Reach(np.nan, 0.0, np.inf, "not reached")
    found = _logs(curve, np.array([float(target)]))[0]
    if found == np.inf:
        return Reach(np.nan, float(curve.amount[-1]), np.inf, "not reached")
    if found == -np.inf:
        return Reach(np.nan, 0.0, float(curve.amount[0]), "before the first point")
    amount = float(np.exp(found))
    return Reach(amount, amount, amount, "measured" if target in curve.fid else "interpolated")


def equal_fid_ratio(a: FidCurve, b: FidCurve, target: float, floor: float = np.nan) -> EqualFid:
    """b's amount over a's when each first reached `target`; refused under twice the `floor` (NaN: not known)."""
    at_a, at_b = reach(a, target), reach(b, target)
    if target < FLOORS * floor:
        why = f"{a.distance} {target:.3g} is below {FLOORS:g} times the floor of {floor:.3g}, where noise decides"
        return EqualFid(target, at_a, at_b, np.nan, 0.0, np.inf, why)
    lowest = at_b.at_least / at_a.at_most if at_a.at_most < np.inf else 0.0
    highest = at_b.at_most / at_a.at_least if at_a.at_least > 0 else np.inf
    return EqualFid(target, at_a, at_b, at_b.amount / at_a.amount, lowest, highest)


def shared_targets(a: FidCurve, b: FidCurve, floor: float = np.nan, count: int = TARGETS) -> np.ndarray:
    """FIDs that both curves pass and that are not refused, from the highest down: (n,) or (0,).

    `count` evenly in log, and every measured FID between: there the ratio has its extremes, for between two of them
    its log is a straight line. Where a curve stood still it jumps: both sides of such a FID are among the targets.
    """
    if min(len(a.fid), len(b.fid)) == 0:
        return np.empty(0)
    worst = min(a.fid[0], b.fid[0])
    best = max(a.fid[-1], b.fid[-1], FLOORS * floor if np.isfinite(floor) else -np.inf)
    if not 0 < best < worst:
        return np.empty(0)
    evenly = np.geomspace(worst, best, count)[1:-1]
    measured = np.concatenate([a.fid, b.fid])
    plateaus = np.concatenate([curve.fid[1:][np.diff(curve.fid) == 0] for curve in (a, b)])
    targets = np.concatenate([evenly, measured, np.nextafter(plateaus, 0.0), [worst, best]])
    return np.unique(targets[(best <= targets) & (targets <= worst)])[::-1]


def ratio_curve(
    a: FidCurve, b: FidCurve, floor: float = np.nan, error: float = np.nan, targets: ArrayLike | None = None
) -> pd.DataFrame:
    """The equal-FID ratio at every shared target, and how far it moves where FIDs are off by the relative `error`.

    Columns: target, amount_a, amount_b, ratio; low, high: the extremes where all FIDs of one of the two are off,
    times 1 - error or 1 + error; low_both, high_both: where both are off, against each other. The same with `_open`: a
    shift leaves what was measured, so that the end is only a bound, and the truth may be beyond.
    `error` NaN, not known: the ends are NaN.
    """
    chosen = shared_targets(a, b, floor) if targets is None else np.atleast_1d(np.asarray(targets, dtype=float))
    at_a, at_b = _logs(a, chosen), _logs(b, chosen)
    with np.errstate(invalid="ignore"):  # inf - inf: neither was measured
        ratio = np.exp(at_b - at_a)
    ratio[~np.isfinite(at_a) | ~np.isfinite(at_b) | (chosen < FLOORS * floor)] = np.nan
    columns = {"target": chosen}
    columns |= {
        f"amount_{name}": np.where(np.isfinite(at), np.exp(at), np.nan) for name, at in (("a", at_a), ("b", at_b))
    }
    columns["ratio"] = ratio
    one_off = [(-error, 0.0), (error, 0.0), (0.0, -error), (0.0, error)]
    for suffix, shifts in (("", one_off), ("_both", [(-error, error), (error, -error)])):
        columns |= _moved(a, b, chosen, ratio, shifts, suffix)
    return pd.DataFrame(columns)


def _moved(
    a: FidCurve,
    b: FidCurve,
    targets: np.ndarray,
    ratio: np.ndarray,
    shifts: list[tuple[float, float]],
    suffix: str,
) -> dict[str, np.ndarray]:
    """Lowest and highest ratio over relative shifts of a's and b's FIDs, and which of the two are only bounds."""
    low, high = ratio.copy(), ratio.copy()
    low_open, high_open = np.zeros(len(targets), dtype=bool), np.zeros(len(targets), dtype=bool)
    for shift_a, shift_b in shifts:
        # A curve times 1 + shift reaches the target where the unshifted one reaches target / (1 + shift).
        moved_a, moved_b = _logs(a, targets / (1 + shift_a)), _logs(b, targets / (1 + shift_b))
        # What was not measured counts by the end of the curve that it lies beyond, and that side is open.
        moved = np.exp(_to_the_end(b, moved_b) - _to_the_end(a, moved_a))
        low, high = np.minimum(low, moved), np.maximum(high, moved)
        low_open |= (moved_b == -np.inf) | (moved_a == np.inf)
        high_open |= (moved_a == -np.inf) | (moved_b == np.inf)
    if np.isnan(shifts).any():
        low, high = np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
        low_open, high_open = np.zeros_like(low_open), np.zeros_like(high_open)
    names = [f"{end}{suffix}{kind}" for kind in ("", "_open") for end in ("low", "high")]
    return dict(zip(names, (low, high, low_open, high_open), strict=True))


def log_slope(curve: FidCurve, target: float, step: float = 1e-3) -> float:
    """d log amount / d log FID at `target`: per cent of the amount for one of FID; NaN: not measured.

    At a measured point the mean of both sides; at an end of the curve its only side.
    """
    around = _logs(curve, target * np.exp([-step, 0.0, step]))
    measured = np.flatnonzero(np.isfinite(around))
    if len(measured) < 2:
        return float("nan")
    first, last = measured[0], measured[-1]
    return float((around[last] - around[first]) / (step * (last - first)))


def noise_factor(a: FidCurve, b: FidCurve, target: float, error_a: float, error_b: float) -> float:
    """What independent relative errors of both models' FIDs (1 sd) do to their ratio at `target`: a factor, above 1."""
    slopes = np.array([log_slope(a, target), log_slope(b, target)])
    return float(np.exp(np.hypot(*(slopes * [error_a, error_b]))))


def ratio_range(
    amount_a: ArrayLike,
    fid_a: ArrayLike,
    amount_b: ArrayLike,
    fid_b: ArrayLike,
    floor: float = np.nan,
    distance: str = "FID",
) -> RatioRange | str:
    """The ratio at the headline target and over all shared ones, or why there is none.

    `distance`: what the FIDs are, by name. `floor`: FID of real images against the reference; a target under twice it
    is refused (NaN: not known).
    """
    a, b = fid_curve(amount_a, fid_a, distance), fid_curve(amount_b, fid_b, distance)
    free = shared_targets(a, b)
    if len(free) == 0:
        return f"not reached: there is no {distance} that both pass between two of their measured points"
    targets = shared_targets(a, b, floor)
    if len(targets) == 0:
        return (
            f"refused: every {distance} that both reach is below {FLOORS:g} times the floor of {floor:.3g}, "
            "where noise decides; evaluate with more samples, or at smaller budgets"
        )
    middle = equal_fid_ratio(a, b, float(np.sqrt(targets[0] * targets[-1])), floor)
    found = ratio_curve(a, b, targets=np.append(targets, middle.target))
    ratios = found["ratio"].to_numpy()
    at_targets = found["target"].to_numpy()
    return RatioRange(
        target=middle.target,
        ratio=middle.ratio,
        steps_a=middle.a.amount,
        steps_b=middle.b.amount,
        lowest=float(ratios.min()),
        highest=float(ratios.max()),
        best=float(targets[-1]),
        worst=float(targets[0]),
        at_worst=float(ratios[0]),
        at_best=float(ratios[-2]),
        lowest_at=float(at_targets[ratios.argmin()]),
        highest_at=float(at_targets[ratios.argmax()]),
        cut_by_floor=bool(targets[-1] > free[-1]),
        distance=distance,
    )


def _logs(curve: FidCurve, targets: np.ndarray) -> np.ndarray:
    """`log_amounts` of a curve; of one without points: never."""
    if len(curve.amount) == 0:
        return np.full(len(targets), np.inf)
    return log_amounts(np.log(curve.amount), curve.fid, targets)


def _to_the_end(curve: FidCurve, logs: np.ndarray) -> np.ndarray:
    """Log amounts, those outside what was measured by the end of the curve that they lie beyond; NaN without points."""
    if len(curve.amount) == 0:
        return np.full(len(logs), np.nan)
    return np.asarray(np.clip(logs, np.log(curve.amount[0]), np.log(curve.amount[-1])))
