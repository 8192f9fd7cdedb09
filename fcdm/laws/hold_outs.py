"""Validation before forecast: a law refitted without what is furthest out, and held against it.

A forecast further out than the largest gap at which that held is refused unless forced, and is then marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fcdm.errors import UserError
from fcdm.laws.joint_fit import DRAWS, Forecast, JointFit, fit_joint
from fcdm.laws.scores import compute_equivalent, log_error
from fcdm.laws.surface_points import SurfacePoints
from fcdm.laws.verdict import FAILED, HELD, verdict

SIZE, BUDGET, BOTH = "the largest size", "the largest budget", "the largest size and the largest budget"
INTERPOLATION, VALIDATED, BEYOND = "interpolation", "validated", "beyond"
"""Where a target lies: inside what was measured, inside the largest validated gap, or further out."""
ALIKE = 1e-6
"""Gaps that differ by less, relative, are one."""


@dataclass(frozen=True)
class Gap:
    """How far out of the fitted points a target lies: factors of 1 and above."""

    n: float
    d: float
    compute: float
    """Of n d: the training compute."""

    def holds(self, other: Gap) -> bool:
        """Whether the other is no further out, in any of the three."""
        return all(
            theirs <= own * (1 + ALIKE)
            for own, theirs in ((self.n, other.n), (self.d, other.d), (self.compute, other.compute))
        )

    @property
    def text(self) -> str:
        """`x2 in size, x1 in data, x2 in FLOPs`."""
        return f"x{self.n:.3g} in size, x{self.d:.3g} in data, x{self.compute:.3g} in FLOPs"


@dataclass(frozen=True)
class HeldOut:
    """A measured cell that a law was not fitted to, and what that law forecasts of it."""

    left_out: str
    """SIZE, BUDGET or BOTH."""
    n: float
    d: float
    measured: float
    """The mean over seeds."""
    runs: int
    gap: Gap
    forecast: Forecast
    error: float
    """log of forecast over measured: above 0 the forecast was too high."""
    compute_equivalent: float
    """The compute at which the law says what was measured, over that at which it says the forecast's median; above 1
    it came out better."""
    seed_deviation: float
    """Of the mean over these runs, of log y: what an error is to be seen beside."""
    last_value: float
    """log of the baseline over measured: the nearest fitted cell, as it is."""
    last_two: float
    """The same: the nearest two cells in size and in data, drawn on straight in log over log."""
    state: str
    """HELD, FAILED or UNINFORMATIVE (`fcdm.laws.verdict`)."""
    why: str


@dataclass(frozen=True)
class Validation:
    """A law, the hold-outs that stand for it, and so how far out it may be asked."""

    fit: JointFit
    held_out: tuple[HeldOut, ...]
    notes: tuple[str, ...]
    """Which hold-outs were not possible, and why."""

    @cached_property
    def validated(self) -> tuple[Gap, ...]:
        """Gaps at which a hold-out held and none that was no further out failed, without such as lie inside others.

        An uninformative one counts as neither.
        """
        failed = [one.gap for one in self.held_out if one.state == FAILED]
        held = [one.gap for one in self.held_out if one.state == HELD]
        good = [gap for gap in held if not any(gap.holds(bad) for bad in failed)]
        return tuple(
            gap
            for place, gap in enumerate(good)
            if not any(other.holds(gap) and (not gap.holds(other) or there < place) for there, other in enumerate(good))
        )

    def gap(self, n: float, d: float) -> Gap:
        """How far (n, d) lies out of the fitted points."""
        return gap_of(self.fit.points, n, d)

    def reach(self, n: float, d: float) -> str:
        """INTERPOLATION, VALIDATED or BEYOND."""
        points, gap = self.fit.points, self.gap(n, d)
        low = 1 - ALIKE
        if n < points.n.min() * low or d < points.d.min() * low:
            return BEYOND
        if Gap(1.0, 1.0, 1.0).holds(gap):
            return INTERPOLATION
        if gap.n > 1 + ALIKE and self.fit.profile.untold:
            return BEYOND
        return VALIDATED if any(known.holds(gap) for known in self.validated) else BEYOND

    def refusal(self, n: float, d: float) -> str:
        """Why (n, d) is BEYOND, in a line; "" where it is not."""
        if self.reach(n, d) != BEYOND:
            return ""
        points, gap = self.fit.points, self.gap(n, d)
        for what, at, known in (("size", n, points.n), ("number of images", d, points.d)):
            if at < known.min() * (1 - ALIKE):
                return f"the {what}, {at:.4g}, is below the smallest that was fitted, {known.min():.4g}"
        if gap.n > 1 + ALIKE and self.fit.profile.untold:
            return f"nothing is said of larger sizes, for E is not told: {self.fit.profile.untold}"
        reached = "; ".join(one.text for one in self.validated) or "none"
        return f"{gap.text} beyond the fitted points is further than the largest validated gap ({reached})"


def validate(points: SurfacePoints, *, is_loss: bool, draws: int = DRAWS, seed: int = 0) -> Validation:
    """Fit a joint law, and again without the largest size, the largest budget and both, against what was left out.

    `is_loss`: whether values are a loss, whose errors are told in compute, or a distance. Raises UserError as
    `fit_joint`; a hold-out that leaves too few points is a note.
    """
    fit = fit_joint(points, draws=draws, seed=seed)
    held_out, notes = [], []
    for left_out, kept, targets in splits(points):
        try:
            without = fit_joint(points.only(kept), draws=draws, seed=seed)
        except UserError as error:
            notes.append(f"no hold-out of {left_out}: {error}")
            continue
        held_out += [_held_out(left_out, without, points, cell, is_loss) for cell in np.unique(points.cells[targets])]
    return Validation(fit, tuple(held_out), tuple(notes))


def splits(points: SurfacePoints) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(what is left out, the points that are kept, those that are forecast), each (points,) of True and False.

    The largest budget is that which most sizes end at; where sizes end at different ones, each size's own last. Without
    both means without the largest size, and of the others without all that it or they end at: so the last budget of the
    largest size, which may have been trained less, is further out in both.
    """
    largest = points.sizes == points.sizes.max()
    ends = np.array([points.d[points.sizes == size].max() for size in range(points.count)])
    shared = np.isclose(ends, points.d.max(), rtol=ALIKE, atol=0).sum() * 2 >= points.count
    last = points.d >= (points.d.max() if shared else ends[points.sizes]) * (1 - ALIKE)
    own_last = largest & (points.d >= ends[-1] * (1 - ALIKE))
    before = points.d < min(float(points.d[last].max()), float(ends[-1])) * (1 - ALIKE)
    return [(SIZE, ~largest, largest), (BUDGET, ~last, last), (BOTH, ~largest & ~last & before, own_last)]


def gap_of(points: SurfacePoints, n: float, d: float) -> Gap:
    return Gap(
        max(1.0, n / float(points.n.max())),
        max(1.0, d / float(points.d.max())),
        max(1.0, n * d / float(points.compute.max())),
    )


def _held_out(left_out: str, fit: JointFit, points: SurfacePoints, cell: int, is_loss: bool) -> HeldOut:
    own = points.cells == cell
    n, d = float(points.n[own][0]), float(points.d[own][0])
    measured, runs = float(points.y[own].mean()), int(own.sum())
    forecast = fit.forecast(n, d)
    curve = fit.law.along_compute(n, d)
    state, why = verdict(forecast.new_run, measured, fit.seed_deviation, curve if is_loss else None)
    last, two = baselines(fit.points, n, d)
    return HeldOut(
        left_out, n, d, measured, runs, gap_of(fit.points, n, d), forecast,
        log_error(forecast.new_run.median, measured),
        compute_equivalent(curve, measured, forecast.new_run.median),
        fit.seed_deviation / float(np.sqrt(runs)),
        log_error(last, measured), log_error(two, measured), state, why,
    )  # fmt: skip


def baselines(points: SurfacePoints, n: float, d: float) -> tuple[float, float]:
    """(the last value, the line through the last two) for a target: what a law has to be better than.

    The last value is the mean of the cell nearest below in size, and of that size nearest below in data. The line goes
    on from it in log over log: by the slope of the size's last two budgets up to d, and by that of the last two sizes,
    at the last budget that both have, up to n.
    """
    means, sizes_of, at_n, at_d = (
        points.cell_means(part) for part in (np.log(points.y), points.sizes, points.n, points.d)
    )
    below = at_n <= n * (1 + ALIKE)
    size = sizes_of[below].max() if below.any() else sizes_of.min()

    def curve(of: float) -> tuple[np.ndarray, np.ndarray]:
        own = np.flatnonzero((sizes_of == of) & ((at_d <= d * (1 + ALIKE)) | (at_d == at_d[sizes_of == of].min())))
        own = own[np.argsort(at_d[own])]
        return np.log(at_d[own]), means[own]

    places, values = curve(size)
    last = line = float(values[-1])
    if len(values) > 1:
        line += float((values[-1] - values[-2]) / (places[-1] - places[-2]) * (np.log(d) - places[-1]))
    if size > sizes_of.min():
        before, theirs = curve(size - 1)
        both = [(values[np.argmin(np.abs(places - at))], value) for at, value in zip(before, theirs, strict=True)
                if np.abs(places - at).min() < ALIKE]  # fmt: skip
        if both:
            step = float(np.log(at_n[sizes_of == size][0] / at_n[sizes_of == size - 1][0]))
            line += float(both[-1][0] - both[-1][1]) / step * float(np.log(n / at_n[sizes_of == size][0]))
    return float(np.exp(last)), float(np.exp(line))
