"""FID or loss against training FLOPs or steps: L(x) = E + A x^-alpha, with intervals. Pure functions on arrays.

What is drawn anew for an interval is whole trajectories, not points: the budgets of one run share its luck. Nothing is
extrapolated unasked, and no point goes missing unsaid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from fcdm.analysis.stats.power_law import FLATTEST, HUBER, STEEPEST, PowerLaw, solve
from fcdm.errors import UserError
from fcdm.formatting import plural

LEAST_POINTS = 4
"""Different x that a fit of three numbers needs, to leave one that can contradict it."""
LEAST_TRAJECTORIES = 3
"""Per model: two tell too little of their own scatter."""
RESAMPLES = 400
LEVEL = 0.95
MOST_WITHOUT_OFFSET = 0.5
"""From this share of resamples without an offset on, the points do not tell E."""


@dataclass(frozen=True)
class LawValues:
    """The law at some x. `low`, `high`: the interval of the law itself, not of another run; None without one."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    extrapolated: np.ndarray
    """True where x lies outside what was measured."""


@dataclass(frozen=True)
class Fit:
    """A law, what it was fitted to, and how sure it is."""

    law: PowerLaw
    x: np.ndarray
    y: np.ndarray
    """The points used, shape (n,)."""
    residuals: np.ndarray
    """log of y over the law, shape (n,)."""
    level: float
    spread: float
    """How far the resamples' percentiles are stretched about the estimate; NaN without intervals."""
    draws: np.ndarray
    """The laws of the resamples, columns E, A, alpha, shape (B, 3); (0, 3) without intervals."""
    no_interval: str = ""
    """Why there is none."""
    notes: tuple[str, ...] = ()
    """What a reader has to know: points left out, curves that turn up, numbers that the points do not tell."""

    @property
    def range(self) -> tuple[float, float]:
        """The measured x: outside, nothing is said unasked."""
        return float(self.x.min()), float(self.x.max())

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """`offset`, `scale` and `exponent` -> (low, high); empty without intervals, no offset where none is told."""
        if not len(self.draws):
            return {}
        found = {}
        if offset_told(self.law.offset, self.draws):
            offset = _stretched(self.law.offset, self.draws[:, 0], self.level, self.spread)
            found["offset"] = (max(0.0, float(offset[0])), float(offset[1]))
        for place, name in ((1, "scale"), (2, "exponent")):
            with np.errstate(over="ignore"):
                ends = np.exp(
                    _stretched(np.log(getattr(self.law, name)), np.log(self.draws[:, place]), self.level, self.spread)
                )
            found[name] = (float(ends[0]), float(ends[1]))
        return found

    def predict(self, x: ArrayLike, extrapolate: bool = False) -> LawValues:
        """The law at `x` (m,). Raises UserError outside the measured range, unless `extrapolate`, which marks it."""
        places = np.atleast_1d(np.asarray(x, dtype=float))
        low, high = self.range
        outside = (places < low * (1 - 1e-9)) | (places > high * (1 + 1e-9)) | ~np.isfinite(places)
        if outside.any() and not extrapolate:
            raise UserError(
                f"{places[outside][0]:.4g} lies outside {low:.4g} to {high:.4g}, where this law was fitted: "
                "ask for extrapolate=True to see what it would say there"
            )
        if (places <= 0).any() or np.isnan(places).any():
            raise UserError("a power law has values above 0 only")
        value = self.law(places)
        if not len(self.draws):
            return LawValues(places, value, None, None, outside)
        offset, scale, exponent = self.draws.T
        with np.errstate(over="ignore", under="ignore"):
            logs = np.log(offset[:, None] + np.exp(np.log(scale)[:, None] - exponent[:, None] * np.log(places)))
        ends = np.exp(_stretched(np.log(value), logs, self.level, self.spread))
        return LawValues(places, value, ends[0], ends[1], outside)


@dataclass(frozen=True)
class Points:
    """Measured points: arrays of shape (n,), and which trajectory and which model each belongs to."""

    x: np.ndarray
    y: np.ndarray
    trajectories: np.ndarray
    models: np.ndarray
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def checked(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        trajectories: Sequence[object] | None = None,
        models: Sequence[object] | None = None,
    ) -> Points:
        """Points that a power law can meet, in order of x; what is left out or looks odd is noted."""
        places, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        runs = np.array([str(run) for run in trajectories] if trajectories is not None else ["one"] * len(places))
        names = np.array([str(name) for name in models] if models is not None else [""] * len(places))
        fit = np.isfinite(places) & np.isfinite(values) & (places > 0) & (values > 0)
        notes = []
        if not fit.all():
            of = sorted(set(runs[~fit]))
            whose = f" ({_some(of)})" if trajectories is not None else ""
            notes.append(
                f"left out: {plural((~fit).sum(), 'point')} that {_be(~fit)} not a finite number above 0{whose}"
            )
        order = np.argsort(places, kind="stable")
        order = order[fit[order]]
        places, values, runs, names = places[order], values[order], runs[order], names[order]
        rising = [run for run in sorted(set(runs)) if (np.diff(values[runs == run]) > 0).any()]
        if rising:
            whose = f" ({_some(rising)})" if trajectories is not None else ""
            notes.append(
                f"not monotone: {plural(len(rising), 'trajectory', 'trajectories')} rises on the way{whose}; kept"
            )
        return cls(places, values, runs, names, tuple(notes))


def fit_power_law(
    x: ArrayLike,
    y: ArrayLike,
    trajectories: Sequence[object] | None = None,
    models: Sequence[object] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    huber: float = HUBER,
) -> Fit:
    """Fit L(x) = E + A x^-alpha to the points, with bootstrap intervals where there are enough trajectories.

    `x`: steps or FLOPs, `y`: FID or loss, shape (n,). `trajectories`: which run each point is of (none: all of one);
    `models`: runs are drawn anew among those of the same model only. Raises UserError with fewer than LEAST_POINTS
    different x.
    """
    points = Points.checked(x, y, trajectories, models)
    _need(points.x, points.notes)
    weights = np.ones((1, len(points.x)))
    laws, _ = solve(points.x, points.y[None], weights, huber)
    counts, spread, why = resampled_counts(points, level, resamples, seed)
    draws, notes = np.empty((0, 3)), points.notes
    if len(counts):
        enough = np.array([len(np.unique(points.x[row > 0])) >= LEAST_POINTS for row in counts])
        if not enough.all():
            notes += (f"{(~enough).sum()} of {len(enough)} resamples had too few different x and were left out",)
        repeated = np.broadcast_to(points.y, (int(enough.sum()), len(points.y)))
        draws, _ = solve(points.x, repeated, counts[enough], huber, first=laws[0])
    return finished(points.x, points.y, laws[0], draws, level, spread, why, notes)


def finished(
    x: np.ndarray,
    y: np.ndarray,
    law: np.ndarray,
    draws: np.ndarray,
    level: float,
    spread: float,
    why: str,
    notes: tuple[str, ...],
) -> Fit:
    """A Fit of solved numbers, with notes on what the points do not tell."""
    found = PowerLaw(*map(float, law))
    if found.offset == 0:
        notes += ("no offset: the points fall as a pure power, E may be anything below them that they do not show",)
    elif not offset_told(found.offset, draws):
        notes += ("no interval of E: most resamples have no offset, these points do not tell it",)
    if not FLATTEST * 1.001 < found.exponent < STEEPEST * 0.999:
        notes += (f"alpha ran to its bound, {found.exponent:.3g}: these points do not tell it",)
    return Fit(found, x, y, np.log(y / found(x)), level, spread, draws, why, notes)


def offset_told(offset: float, draws: np.ndarray) -> bool:
    """False where E, or most resamples' E, is 0: percentiles heaped there would say `0 to 0` of what is not known."""
    return offset > 0 and not (len(draws) and float((draws[:, 0] == 0).mean()) >= MOST_WITHOUT_OFFSET)


def resampled_counts(points: Points, level: float, resamples: int, seed: int) -> tuple[np.ndarray, float, str]:
    """How often each point counts in each resample (B, n), the stretch of the percentiles, and why there is none.

    Trajectories are drawn with replacement among those of their model. Percentiles of few trajectories are too narrow;
    they are stretched by t / z x sqrt(g / (g - 1)) for g trajectories (Hesterberg, arXiv 1411.5279, section 5.3).
    """
    none = np.empty((0, len(points.x)))
    groups = {name: sorted(set(points.trajectories[points.models == name])) for name in sorted(set(points.models))}
    fewest = min(groups, key=lambda name: len(groups[name]))
    smallest = len(groups[fewest])
    if smallest < LEAST_TRAJECTORIES:
        seeds = f"{plural(smallest, 'seed')}{f' of {fewest}' if fewest else ''}"
        return none, float("nan"), f"no interval: {seeds}, at least {LEAST_TRAJECTORIES} needed"
    random = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(points.x)))
    freedom = 0
    for name, runs in groups.items():
        freedom += len(runs) - 1
        drawn = random.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), resamples)
        for place, run in enumerate(runs):
            counts[:, (points.models == name) & (points.trajectories == run)] = drawn[:, place : place + 1]
    tail = (1 + level) / 2
    return counts, float(stdtrit(freedom, tail) / ndtri(tail) * np.sqrt(smallest / (smallest - 1))), ""


def _stretched(value: ArrayLike, draws: np.ndarray, level: float, spread: float) -> np.ndarray:
    """(2, ...): the percentiles of `draws` along their first axis, stretched about `value`."""
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(value + spread * (ends - value))


def _need(x: np.ndarray, notes: Sequence[str]) -> None:
    there = len(np.unique(x))
    if there < LEAST_POINTS:
        more = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(
            f"a power law with an offset needs points at {LEAST_POINTS} different budgets at least, "
            f"here {'is' if there == 1 else 'are'} {there}{more}"
        )


def _be(which: np.ndarray) -> str:
    return "is" if which.sum() == 1 else "are"


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
