"""The joint law of measured points, how sure it is, and what it forecasts.

Whole runs are drawn anew, for the budgets of one run share its luck. With two or three seeds of a size there is little
to draw from, so what seeds do is pooled over sizes: a draw is the law, times what a run's seed did somewhere, times a
misfit of each size and budget as large as the residuals have beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import fdtrc, ndtri, stdtrit

from fcdm.laws.joint_law import FORMS, JointLaw, values_of
from fcdm.laws.joint_offset import OffsetProfile, profile_offset
from fcdm.laws.joint_solver import HUBER_SHARE, solve_joint
from fcdm.laws.predictive import LEVEL, LEVELS, Predictive
from fcdm.laws.surface_points import SurfacePoints

DRAWS = 400
EVERY = 25
"""New runs drawn for each law of a draw."""
ROUNDING = 1e-7
"""Relative deviations below this are none."""
LEAST_FREEDOM = 1.5
"""Of a predictive distribution: with fewer its CRPS has no end."""
SYSTEMATIC = 0.01
"""The p below which residuals are called systematic: another form than the law's is the true one."""


@dataclass(frozen=True)
class Forecast:
    """What is said of a size after a number of images."""

    law: Predictive
    """Where the law is: the mean over very many runs, as far as the law is true."""
    new_run: Predictive
    """Where one more run is: the law, the misfit of a size, the luck of a seed with the noise of its evaluation."""


@dataclass(frozen=True)
class Misfit:
    """What residuals have beyond what seeds explain; deviations of log y, 1 sd."""

    level: float
    """Of sizes: what all budgets of a size share."""
    shape: float
    """Of single cells, beyond that."""
    freedom: float
    """Degrees of freedom of `level`: sizes less three."""
    p: float
    """How likely seeds alone leave residuals as large."""

    @property
    def variance(self) -> float:
        return self.level**2 + self.shape**2

    @property
    def is_systematic(self) -> bool:
        return self.p < SYSTEMATIC


@dataclass(frozen=True)
class JointFit:
    """A joint law, and how sure it is."""

    points: SurfacePoints
    law: JointLaw
    """By log-Huber: the estimate."""
    projected: JointLaw
    """By variable projection of relative residuals, from where log-Huber began."""
    second: JointLaw
    """The other of FORMS, by log-Huber of the same points: a check, and a misfit where that is systematic."""
    objective: float
    """The sum of Huber losses that the estimate is the least of."""
    delta: float
    """Of the Huber loss of log residuals: HUBER_SHARE times `seed_deviation`."""
    seed_deviation: float
    """Pooled deviation of one run's value about the mean of its cell, of log y, 1 sd; with the evaluation's noise."""
    misfit: Misfit
    by_seeds: np.ndarray
    """Laws of draws with other seeds alone, (draws, 5): E, A, alpha, B, beta."""
    draws: np.ndarray
    """Laws of draws with other seeds and other misfits, (draws, 5)."""
    profile: OffsetProfile
    """What the points tell of E."""
    luck: tuple[np.ndarray, ...]
    """`SurfacePoints.luck`."""
    seed: int
    """Of the draws."""

    @cached_property
    def residuals(self) -> np.ndarray:
        """log of y over the law, (points,)."""
        return np.asarray(np.log(self.points.y) - np.log(self.law(self.points.n, self.points.d)))

    def scatter(self, law: JointLaw | None = None) -> float:
        """Root mean square of the cells' residuals about a law (None: the estimate), over their degrees of freedom."""
        law = law or self.law
        means = self.points.cell_means(np.log(self.points.y / law(self.points.n, self.points.d)))
        return float(np.sqrt((means**2).sum() / max(len(means) - 5, 1)))

    def away(self, n: float, d: float) -> float:
        """log of the second form over the first at (n, d): where both fit, the points do not say which is true."""
        return float(np.log(self.second(n, d) / self.law(n, d)))

    def predictive(self, of: Callable[[np.ndarray], np.ndarray]) -> Predictive:
        """The distribution of a number that follows from a law: `of` takes rows E, A, alpha, B, beta, and may give 0 or
        infinity. Draws of which it is no number (NaN) are left out."""
        centre, by_seeds, laws = (
            _logs_of(of(part)) for part in (np.array([self.law.numbers]), self.by_seeds, self.draws)
        )
        of_seeds = float(by_seeds.var())
        return self._quantiles(float(centre[0]), laws, of_seeds, max(0.0, float(laws.var()) - of_seeds))

    def forecast(self, n: float, d: float) -> Forecast:
        """At size n after d images, wherever that lies: whether it may be told, `Validation.reach` says.

        Where misfit is systematic, the distance between the two forms is one more deviation of the law. The new run is
        evaluated as the points were: what seeds do is of evaluated values, and so holds the evaluation's noise.
        """

        def value(laws: np.ndarray) -> np.ndarray:
            return np.asarray(values_of(laws, n, d, self.law.form))

        by_seeds, laws = np.log(value(self.by_seeds)), np.log(value(self.draws))
        random = np.random.default_rng([self.seed, 2])
        of_form = abs(self.away(n, d)) if self.misfit.is_systematic else 0.0
        laws = laws + of_form * random.normal(size=len(laws))
        times = (EVERY, len(laws))
        late = np.concatenate([one[len(one) // 2 :] for one in self.luck])  # noise falls with training
        runs = laws + random.choice(late, times) * random.choice([-1.0, 1.0], times)
        runs += np.sqrt(self.misfit.variance) * random.normal(size=times)
        of_seeds, of_law = float(by_seeds.var()), max(0.0, float(laws.var()) - float(by_seeds.var()))
        of_run = of_seeds + float((late**2).mean()), of_law + self.misfit.variance
        centre = float(np.log(self.law(n, d)))
        return Forecast(self._quantiles(centre, laws, of_seeds, of_law), self._quantiles(centre, runs.ravel(), *of_run))

    def _quantiles(self, centre: float, logs: np.ndarray, of_seeds: float, of_misfit: float) -> Predictive:
        """Quantiles of draws of log y, stretched about the estimate by what their variances were estimated from."""
        freedom = satterthwaite([(of_seeds, self.points.seed_freedom), (of_misfit, self.misfit.freedom)])
        stretch = np.array([t_over_z(freedom, level) for level in LEVELS])
        found = np.maximum.accumulate(centre + stretch * (np.quantile(logs, LEVELS) - centre))
        return Predictive(tuple(map(float, np.exp(np.clip(found, -_FAR, _FAR)))), freedom)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """E, A, alpha, B and beta -> (low, high) at LEVEL. E's is of the profile, open at 0 or the lowest mean."""
        found = {"E": self.profile.ends}
        for place, name in enumerate(("A", "alpha", "B", "beta"), start=1):
            found[name] = self.predictive(lambda laws, place=place: laws[:, place]).interval(LEVEL)  # type: ignore[misc]
        return found


_FAR = 690.0
"""Logarithms beyond this are infinite, or none: they are kept as the largest numbers there are."""


def _logs_of(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(np.log(values[~np.isnan(values)]), -_FAR, _FAR))


def t_over_z(freedom: float, level: float) -> float:
    """How much further out the quantile of Student's t lies than the normal's; 1 at the median."""
    return 1.0 if np.isinf(freedom) or level == 0.5 else float(stdtrit(freedom, level) / ndtri(level))


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (each with its own), by Satterthwaite (1946); inf where all are 0."""
    total = sum(variance for variance, _ in parts)
    of_parts = sum(variance**2 / freedom for variance, freedom in parts)
    return max(LEAST_FREEDOM, total**2 / of_parts) if total > ROUNDING**2 else float("inf")


def fit_joint(points: SurfacePoints, *, draws: int = DRAWS, seed: int = 0, form: str = "additive") -> JointFit:
    """The joint law of points, by log-Huber from where variable projection ends, with draws of whole runs.

    `form`: of `FORMS`. Raises UserError where there are too few points (`SurfacePoints.check_enough`).
    """
    points.check_enough()
    luck, deviation = points.luck()
    delta = HUBER_SHARE * max(deviation, ROUNDING)
    n, d = points.n, points.d
    found, least, projected = solve_joint(n, d, points.y[None], delta, lowest=points.lowest, form=form)
    law = JointLaw.of_row(found[0], form)
    other = next(one for one in FORMS if one != form)
    second, _, _ = solve_joint(n, d, points.y[None], delta, lowest=points.lowest, form=other)
    random = np.random.default_rng([seed, 0])
    clean = np.log(law(n, d))

    def refitted(off: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        y = np.exp(clean + off)
        lows = points.cell_means(y).min(axis=1)
        laws, objectives, _ = solve_joint(n, d, y, delta, lowest=lows, first=found[0], form=form)
        return laws, (y, objectives, lows)

    of_seeds = drawn_luck(points, luck, draws, random)
    by_seeds, drawn = refitted(of_seeds)
    left = clean + of_seeds - np.log(values_of(by_seeds, n, d, form))
    misfit = misfit_of(points, np.log(points.y) - clean, left)
    laws = by_seeds
    if misfit.variance:
        of_sizes = misfit.level * random.normal(size=(draws, points.count))[:, points.sizes]
        of_cells = misfit.shape * random.normal(size=(draws, int(points.cells.max()) + 1))[:, points.cells]
        laws, drawn = refitted(of_seeds + of_sizes + of_cells)
    freedom = satterthwaite([(deviation**2, points.seed_freedom), (misfit.variance, misfit.freedom)])
    stretch = t_over_z(freedom, (1 + LEVEL) / 2)
    profile = profile_offset(points, found[0], float(least[0]), delta, drawn, stretch, form)
    began, check = JointLaw.of_row(projected[0]), JointLaw.of_row(second[0], other)
    return JointFit(
        points, law, began, check, float(least[0]), delta, deviation, misfit, by_seeds, laws, profile, tuple(luck), seed
    )


def drawn_luck(
    points: SurfacePoints, luck: Sequence[np.ndarray], draws: int, random: np.random.Generator
) -> np.ndarray:
    """Other seeds, (draws, points): each run has what a seed did to one of all runs, with either sign.

    By the order of budgets, where the other run has others, or fewer.
    """
    found = np.zeros((draws, len(points.y)))
    for run in range(int(points.runs.max()) + 1):
        own = np.flatnonzero(points.runs == run)
        given = np.array([one[np.linspace(0, len(one) - 1, len(own)).round().astype(int)] for one in luck])
        found[:, own] = given[random.integers(len(luck), size=draws)] * random.choice([-1.0, 1.0], (draws, 1))
    return found


def misfit_of(points: SurfacePoints, residuals: np.ndarray, by_seeds: np.ndarray) -> Misfit:
    """What residuals (points,) have beyond those of refitted draws with other seeds alone, (draws, points).

    Squares of sizes' mean residuals, and of cells about them, less the mean of the draws', over the numbers that a law
    leaves free there. The p is of an F of each, whose upper degrees of freedom are those that the draws' squares vary
    with; the smaller of the two, twice.
    """
    cells = points.cell_means(np.ones_like(points.y))
    size_of = np.zeros(len(cells), dtype=int)
    size_of[points.cells] = points.sizes
    of_size = np.eye(points.count)[size_of]

    def squares(off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = points.cell_means(off)
        levels = means @ of_size / of_size.sum(axis=0)
        return (levels**2).sum(axis=-1), ((means - levels[..., size_of]) ** 2).sum(axis=-1)

    own = points.seed_freedom
    within = max(own, len(points.y) - len(cells) - own)
    free = (max(1, points.count - 3), max(1, len(cells) - points.count - 2))
    found, p = [], []
    for seen, drawn, freedom, of_noise in zip(squares(residuals), squares(by_seeds), free, (own, within), strict=True):
        mean, spread = max(float(drawn.mean()), ROUNDING**2), max(float(drawn.var()), ROUNDING**4)
        found.append(float(np.sqrt(max(0.0, float(seen) - mean) / freedom)))
        p.append(float(fdtrc(2 * mean**2 / spread, of_noise, float(seen) / mean)))
    return Misfit(found[0], found[1], float(free[0]), min(1.0, 2 * min(p)))
