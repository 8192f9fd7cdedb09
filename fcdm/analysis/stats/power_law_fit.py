"""FID or loss against training FLOPs or steps: L(x) = E + A x^-alpha, with intervals. Pure functions on arrays.

What is drawn anew for an interval is whole trajectories, not points: the budgets of one run share its luck. How far the
law misses the means enters every interval too. Nothing is extrapolated unasked, and no point goes missing unsaid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from fcdm.analysis.stats.measured_points import Points
from fcdm.analysis.stats.offset_profile import offset_profile
from fcdm.analysis.stats.power_law import HUBER, PowerLaw, solve
from fcdm.analysis.stats.told_law import smooth_residuals, why_untold, why_untold_without_seeds
from fcdm.errors import UserError
from fcdm.formatting import plural

LEAST_POINTS = 4
"""Different x that a fit of three numbers needs, to leave one that can contradict it."""
LEAST_TRAJECTORIES = 3
"""Per model: two tell too little of their own scatter."""
RESAMPLES = 400
LEVEL = 0.95
NO_SPREAD = "no interval: all seeds agree to the last digit"


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
    """A law, what it was fitted to, and how sure it is. Whether it may be told: `no_law`."""

    law: PowerLaw
    x: np.ndarray
    y: np.ndarray
    """What was fitted, shape (n,): means over seeds, or the envelope of such curves."""
    residuals: np.ndarray
    """log of y over the law, shape (n,)."""
    level: float
    spread: float
    """How far the resamples' percentiles are stretched about the estimate; NaN without intervals."""
    draws: np.ndarray
    """The laws of the resamples, columns E, A, alpha, shape (B, 3); (0, 3) without intervals."""
    offset_ends: tuple[float, float] | None = None
    """E's interval; its low end is 0 where the points tell only what E is below. None: they do not tell even that."""
    no_law: str = ""
    """Why the points tell no law (`told_law`); "" where they do. What has a reason here has no interval."""
    no_interval: str = ""
    """Why there is none."""
    scatter: float = 0.0
    """Root mean square of the residuals over their degrees of freedom."""
    noise: float = float("nan")
    """Relative standard error of a mean by the seeds; NaN without seeds."""
    points: int = 0
    """Measured values behind it."""
    notes: tuple[str, ...] = ()
    """What a reader has to know: points left out, curves that turn up, numbers that the points do not tell."""

    @property
    def range(self) -> tuple[float, float]:
        """The fitted x: outside, nothing is said unasked."""
        return float(self.x.min()), float(self.x.max())

    @property
    def tells_offset(self) -> bool:
        """Whether E is known as a number: it has an interval, and not down to 0."""
        return bool(len(self.draws)) and self.offset_ends is not None and self.offset_ends[0] > 0

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """`offset`, `scale` and `exponent` -> (low, high); empty without intervals."""
        if not len(self.draws):
            return {}
        found = {} if self.offset_ends is None else {"offset": self.offset_ends}
        for place, name in ((1, "scale"), (2, "exponent")):
            with np.errstate(over="ignore"):
                ends = np.exp(
                    _stretched(np.log(getattr(self.law, name)), np.log(self.draws[:, place]), self.level, self.spread)
                )
            found[name] = (float(ends[0]), float(ends[1]))
        return found

    def predict(self, x: ArrayLike, extrapolate: bool = False) -> LawValues:
        """The law at `x` (m,). Raises UserError outside the fitted range, unless `extrapolate`, which marks it."""
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
class Sampled:
    """A curve to be fitted, and how it would look with other seeds."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    """(n,); they sum up to the number of independent pieces of the curve."""
    pieces: np.ndarray
    """(n,) of whole numbers: the piece that each place is of, which errs as one."""
    lowest: float
    """The lowest measured mean: E stays below."""
    points: int
    draws: np.ndarray
    """(B, n): y with other seeds; (0, n) without enough of them."""
    draw_weights: np.ndarray
    """(B, n)."""
    spread: float = float("nan")
    """How far percentiles of the draws are to be stretched."""
    noise: float = float("nan")
    """Relative standard error of a piece by its seeds, without what all pieces share."""
    noise_freedom: float = 0.0
    luck: float = 0.0
    """Relative standard error that all pieces share."""
    luck_freedom: float = float("inf")
    no_interval: str = ""
    notes: tuple[str, ...] = field(default=())


def fit_power_law(
    x: ArrayLike,
    y: ArrayLike,
    trajectories: Sequence[object] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    huber: float = HUBER,
) -> Fit:
    """Fit L(x) = E + A x^-alpha to the means of the points at each x, with intervals where there are enough runs.

    `x`: steps or FLOPs, `y`: FID or loss, shape (n,). `trajectories`: which run each point is of (none: all of one).
    Raises UserError with fewer than LEAST_POINTS different x.
    """
    points = Points.checked(x, y, trajectories)
    return fit_curve(_means(points, level, resamples, seed), level=level, seed=seed, huber=huber)


def fit_curve(curve: Sampled, *, level: float = LEVEL, seed: int = 0, huber: float = HUBER) -> Fit:
    """The fit of a sampled curve: the law, whether it may be told, and intervals that hold seeds and misfit."""
    x, y, weights = curve.x, curve.y, curve.weights
    numbers, _ = solve(x, y[None], weights[None], huber, lowest=curve.lowest)
    law = PowerLaw(*map(float, numbers[0]))
    residuals = np.log(y / law(x))
    freedom = max(1.0, float(weights.sum()) - (3 if law.offset > 0 else 2))
    scatter = float(np.sqrt(weights @ residuals**2 / freedom))
    systematic = smooth_residuals(law, x, residuals, weights, curve.pieces, curve.noise, curve.noise_freedom)
    untold = why_untold(law, x, curve.lowest, scatter, curve.noise, systematic)
    draws, ends, why, notes = np.empty((0, 3)), None, curve.no_interval, curve.notes
    if not len(curve.draws) and not untold:
        known = _profile(curve, law, scatter**2, freedom, level, huber) is not None
        untold = why_untold_without_seeds(min(len(x), curve.points), known)
    if law.offset == 0 and not untold:
        notes += ("the points fall as a pure power, without any E",)
    if len(curve.draws) and not untold:
        if np.ptp(np.log(curve.draws), axis=0).max() < 1e-9:
            why = NO_SPREAD
        else:
            draws = _laws_of_draws(curve, numbers[0], scatter, seed, huber)
            ends = _offset_ends(curve, law, (scatter**2, freedom), level, huber)
    return Fit(
        law, x, y, residuals, level, curve.spread, draws, ends, untold, why, scatter, curve.noise, curve.points,
        notes,
    )  # fmt: skip


def _laws_of_draws(curve: Sampled, first: np.ndarray, scatter: float, seed: int, huber: float) -> np.ndarray:
    """The law of each draw, (B, 3): other seeds, and a misfit of each piece as large as the residuals say.

    The residuals hold the seeds' noise as well, which is in the draws already: misfit is what they have beyond it.
    """
    misfit = np.sqrt(max(0.0, scatter**2 - curve.noise**2))
    random = np.random.default_rng([seed, 1])
    off = random.normal(0.0, misfit, (len(curve.draws), int(curve.pieces.max()) + 1))[:, curve.pieces]
    laws, _ = solve(curve.x, curve.draws * np.exp(off), curve.draw_weights, huber, first=first)
    return laws


def _offset_ends(
    curve: Sampled, law: PowerLaw, of_fit: tuple[float, float], level: float, huber: float
) -> tuple[float, float] | None:
    """E's interval: the profile over the curve, and the luck that all of the curve shares, which moves E with it.

    None where the profile is open on both sides: nothing is known of E but what it is by definition.
    """
    of_seeds, misfit = curve.noise**2, max(0.0, of_fit[0] - curve.noise**2)
    variance = of_seeds + misfit
    # Satterthwaite's: a little misfit, of few degrees of freedom, leaves the many of the seeds.
    freedom = variance**2 / max(of_seeds**2 / curve.noise_freedom + misfit**2 / of_fit[1], 1e-300)
    ends = _profile(curve, law, variance, freedom, level, huber)
    if ends is None or not curve.luck:
        return ends
    low, high = ends
    shared = float(stdtrit(curve.luck_freedom, (1 + level) / 2)) * curve.luck
    centre = np.clip(law.offset, low, high)
    if centre == 0:
        return low, float(high * np.exp(shared))
    lower = centre * np.exp(-np.hypot(np.log(centre / low), shared)) if low > 0 else 0.0
    return float(lower), float(centre * np.exp(np.hypot(np.log(high / centre), shared)))


def _profile(
    curve: Sampled, law: PowerLaw, variance: float, freedom: float, level: float, huber: float
) -> tuple[float, float] | None:
    """`offset_profile` of a sampled curve; None where it is open on both sides."""
    low, high = offset_profile(law, curve.x, curve.y, curve.weights, curve.lowest, variance, freedom, level, huber)
    return None if low == 0 and high >= curve.lowest else (low, high)


def _means(points: Points, level: float, resamples: int, seed: int) -> Sampled:
    """The means over runs at each x, and as they would be with other runs: whole ones, drawn with replacement.

    Percentiles of few runs are too narrow; they are stretched by t / z x sqrt(g / (g - 1)) for g runs (Hesterberg,
    arXiv 1411.5279, section 5.3).
    """
    places = np.unique(points.x)
    if len(places) < LEAST_POINTS:
        more = f" ({'; '.join(points.notes)})" if points.notes else ""
        raise UserError(
            f"a power law with an offset needs points at {LEAST_POINTS} different budgets at least, "
            f"here {'is' if len(places) == 1 else 'are'} {len(places)}{more}"
        )
    runs = sorted(set(points.trajectories))
    there, sums = (
        np.array([[part[(points.trajectories == run) & (points.x == at)].sum() for at in places] for run in runs])
        for part in (np.ones_like(points.y), points.y)
    )  # (runs, n)
    means, weights = sums.sum(0) / there.sum(0), np.minimum(there.sum(0) / len(runs), 1.0)
    pieces, empty = np.arange(len(places)), np.empty((0, len(places)))
    count = len(runs)
    if count < LEAST_TRAJECTORIES:
        why = f"no interval: {plural(count, 'seed')}, at least {LEAST_TRAJECTORIES} needed"
        return Sampled(
            places, means, weights, pieces, float(means.min()), len(points.x), empty, empty, no_interval=why,
            notes=points.notes,
        )  # fmt: skip
    random = np.random.default_rng(seed)
    times = random.multinomial(count, np.full(count, 1 / count), resamples)
    totals = times @ there
    notes = points.notes
    enough = (totals > 0).sum(axis=1) >= LEAST_POINTS
    if not enough.all():
        notes += (f"{(~enough).sum()} of {len(enough)} resamples had too few different x and were left out",)
    totals, drawn = totals[enough], (times @ sums)[enough]
    noise, freedom, luck = _noise(np.divide(sums, there, out=np.full(sums.shape, np.nan), where=there > 0))
    return Sampled(
        places, means, weights, pieces, float(means.min()), len(points.x),
        np.where(totals > 0, drawn / np.maximum(totals, 1), means), totals / count,
        float(stdtrit(count - 1, (1 + level) / 2) / ndtri((1 + level) / 2) * np.sqrt(count / (count - 1))),
        noise, freedom, luck, count - 1, notes=notes,
    )  # fmt: skip


def _noise(values: np.ndarray) -> tuple[float, float, float]:
    """(standard error of a mean by what runs do not share over x, its degrees of freedom, by what they do), relative.

    `values`: (runs, n), NaN where a run has no value. log y = of the x + of the run + the rest, by least squares.
    """
    logs = np.log(values)
    seen = np.isfinite(logs)
    several = seen.sum(axis=1, keepdims=True) > 1  # a run with one value shares its luck with nothing
    of_run = np.zeros((len(logs), 1))
    for _ in range(50):  # alternating means: exact at once where every run has every x
        of_x = np.nanmean(logs - of_run, axis=0)
        of_run = np.where(several, np.nanmean(logs - of_x, axis=1, keepdims=True), 0.0)
    rest = np.where(seen, logs - of_x - of_run, 0.0)
    freedom = max(1, int(seen.sum()) - logs.shape[1] - max(0, int(several.sum()) - 1))
    variance = float((rest**2).sum()) / freedom
    per_run = max(0.0, float(of_run.var(ddof=1)))
    return float(np.sqrt(variance / seen.sum(axis=0).mean())), float(freedom), float(np.sqrt(per_run / len(logs)))


def _stretched(value: ArrayLike, draws: np.ndarray, level: float, spread: float) -> np.ndarray:
    """(2, ...): the percentiles of `draws` along their first axis, stretched about `value`."""
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(value + spread * (ends - value))
