"""From a loss to a distance such as FID: only where sizes of equal loss have been shown to have equal distances.

Along the training of one model FID follows the loss closely (rank correlation 0.99 on the digits), and of two families
the same loss is another FID. So the map is a family's own, and whether it holds across its sizes has to be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.laws.joint_fit import satterthwaite
from fcdm.laws.plain import LossMapNumbers
from fcdm.laws.predictive import LEVEL, LEVELS, Predictive
from fcdm.laws.surface_points import LEAST_SIZES
from fcdm.laws.verdict import MOST_OFF

CURVED = 4
"""Budgets of a size from which the map has a curvature."""


@dataclass(frozen=True)
class FixedSteps:
    """Residuals of log distance on the loss, across sizes, after one number of steps."""

    steps: float
    sizes: int
    effect: float
    """How far they move from the smallest size to the largest, by a straight line in log N."""
    low: float
    high: float
    """Its interval at LEVEL, Student's t with sizes - 2 degrees of freedom."""


@dataclass(frozen=True)
class LossMap:
    """log distance = level + slopes of (log loss, its square), along the training of sizes of one family."""

    level: float
    slopes: np.ndarray
    """(1,) or (2,): of log loss less `centre`, and of its square."""
    centre: float
    covariance: np.ndarray
    """Of the slopes, by whole runs."""
    deviation: float
    """Of sizes' levels about `level`, 1 sd."""
    scatter: float
    """Of single values about their size's own curve, 1 sd."""
    at: tuple[FixedSteps, ...]
    """Each number of steps at which enough sizes were measured."""
    sizes: int

    @property
    def unshown(self) -> str:
        """Why a distance may not be forecast through the loss; "" where it may.

        Shown is what at every fixed number of steps cannot be more than 15 % from the smallest size to the largest: its
        interval lies within that. That no effect was found is not enough.
        """
        if not self.at:
            return f"at no number of steps were {LEAST_SIZES} sizes measured"
        worst = max(self.at, key=lambda one: max(abs(one.low), abs(one.high)))
        if max(abs(worst.low), abs(worst.high)) <= MOST_OFF:
            return ""
        ends = f"{np.expm1(worst.low):+.0%} to {np.expm1(worst.high):+.0%}"
        where = f"at {worst.steps:,.0f} steps the distance at equal loss moves by {ends} from smallest to largest size"
        moved = worst.low > 0 or worst.high < 0
        return f"{where}, {'so it depends on size' if moved else f'which may be more than {np.expm1(MOST_OFF):.0%}'}"

    def of(self, loss: ArrayLike) -> np.ndarray:
        """The distance at a loss."""
        return np.asarray(np.vectorize(self.numbers, otypes=[float])(loss))

    @property
    def numbers(self) -> LossMapNumbers:
        """The map alone, for plans."""
        return LossMapNumbers(self.level, self.centre, tuple(map(float, self.slopes)))

    def through(self, loss: Predictive, *, single: bool) -> Predictive:
        """The distance where the loss is forecast so. Raises UserError where `unshown`, or where the map falls.

        Quantile by quantile, with the map's own variances added; degrees of freedom by Satterthwaite's rule. `single`:
        of one value, which scatters about the curve of its size; else of the mean over seeds.
        """
        if self.unshown:
            raise UserError(f"no forecast through the loss: {self.unshown}; forecast the distance itself")
        logs = np.log(self.of(loss.quantiles))
        if (np.diff(logs) < -1e-9).any():
            raise UserError(
                "no forecast through the loss: there the map falls with a rising loss; forecast the distance itself"
            )
        middle = float(np.log(self.of(loss.median)))
        terms = self._terms(np.array(np.log(loss.median)))
        own = self.deviation**2 * (1 + 1 / self.sizes) + float(terms @ self.covariance @ terms)
        own += self.scatter**2 if single else 0.0
        given = float(((logs[-2] - logs[1]) / (2 * ndtri(0.975))) ** 2)
        freedom = satterthwaite([(own, self.sizes - 1), (given, min(loss.freedom, 1e6))])
        places = np.array(ndtri(LEVELS) if np.isinf(freedom) else stdtrit(freedom, LEVELS))
        spread = np.sqrt((logs - middle) ** 2 + own * places**2)
        return Predictive(tuple(map(float, np.exp(np.maximum.accumulate(middle + np.sign(places) * spread)))), freedom)

    def _terms(self, logs: np.ndarray) -> np.ndarray:
        off = logs - self.centre
        return np.stack([off, off**2], axis=-1)[..., : len(self.slopes)]


def map_loss(n: ArrayLike, steps: ArrayLike, loss: ArrayLike, distance: ArrayLike, runs: Sequence[object]) -> LossMap:
    """The map of one family, from values of shape (points,). Raises UserError with fewer than LEAST_SIZES sizes of two
    budgets each."""
    sizes, at, x, y = (np.asarray(part, dtype=float) for part in (n, steps, np.log(loss), np.log(distance)))
    names = np.array([str(run) for run in runs])
    known, size_of = np.unique(sizes, return_inverse=True)
    budgets = [len(set(at[size_of == size])) for size in range(len(known))]
    if sum(count > 1 for count in budgets) < LEAST_SIZES:
        raise UserError(
            f"a map from loss to a distance needs {LEAST_SIZES} sizes with two budgets each at least, here "
            f"{plural(sum(count > 1 for count in budgets), 'size')}"
        )
    centre = float(x.mean())
    terms = np.stack([x - centre, (x - centre) ** 2], axis=1)[:, : 2 if max(budgets) >= CURVED else 1]
    of_size = np.eye(len(known))[size_of]

    def within(values: np.ndarray) -> np.ndarray:
        return np.asarray(values - of_size @ ((of_size.T @ values).T / of_size.sum(axis=0)).T)

    inner = within(terms)
    inverse = np.linalg.pinv(inner.T @ inner)
    slopes = inverse @ inner.T @ y
    rest = within(y) - inner @ slopes
    scores = np.array([inner[names == run].T @ rest[names == run] for run in sorted(set(names))])
    levels = (of_size.T @ (y - terms @ slopes)) / of_size.sum(axis=0)
    free = max(1, len(y) - len(known) - len(slopes))
    residuals = y - levels.mean() - terms @ slopes
    fixed = [_fixed_steps(float(one), sizes[at == one], residuals[at == one]) for one in sorted(set(at))]
    return LossMap(
        float(levels.mean()),
        slopes,
        centre,
        inverse @ (scores.T @ scores) @ inverse,
        float(levels.std(ddof=1)),
        float(np.sqrt((rest**2).sum() / free)),
        tuple(one for one in fixed if one is not None),
        len(known),
    )


def _fixed_steps(steps: float, sizes: np.ndarray, residuals: np.ndarray) -> FixedSteps | None:
    known = np.unique(sizes)
    if len(known) < LEAST_SIZES:
        return None
    means = np.array([residuals[sizes == size].mean() for size in known])
    u = np.log(known) - np.log(known).mean()
    span, square = float(np.ptp(u)), float(u @ u)
    slope = float(u @ means) / square
    left = means - means.mean() - slope * u
    freedom = len(known) - 2
    error = float(np.sqrt(left @ left / freedom / square)) * span * float(stdtrit(freedom, (1 + LEVEL) / 2))
    return FixedSteps(steps, len(known), slope * span, slope * span - error, slope * span + error)
