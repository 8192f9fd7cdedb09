"""What a joint law is fitted to: values over size and data, of whole runs; and how runs of one size differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.laws.plain import MACS

LEAST_SIZES = 4
"""Sizes with LEAST_BUDGETS at least: E, A and alpha take three."""
LEAST_BUDGETS = 3
"""Of a size: E, B and beta take three."""
LEAST_SEED_FREEDOM = 3
"""Runs beyond the first of each size, over all sizes: fewer do not tell how far a seed moves a value."""
ALIKE = 1e-9
"""Sizes, or images, that differ by less, relative, are the same."""


@dataclass(frozen=True)
class SurfacePoints:
    """Measured points, all of shape (points,), ordered by size, run and images."""

    n: np.ndarray
    """The size of the model."""
    d: np.ndarray
    """Images it was trained on until there."""
    y: np.ndarray
    """Loss or a distance."""
    runs: np.ndarray
    """Whole numbers from 0: the run, which is drawn anew as a whole."""
    cells: np.ndarray
    """Whole numbers from 0: points of one cell have the same size and images, and differ in their seeds."""
    sizes: np.ndarray
    """Whole numbers from 0, by size."""
    unit: str = MACS
    """What `n` counts: one of N_UNITS."""

    @classmethod
    def checked(
        cls, n: ArrayLike, d: ArrayLike, y: ArrayLike, runs: Sequence[object], unit: str = MACS
    ) -> SurfacePoints:
        """In order. Raises UserError where a number is not above 0, a run has two sizes or a point twice, or there are
        too few sizes, budgets or seeds for a joint law."""
        points = cls.ordered(n, d, y, runs, unit)
        points.check_enough()
        return points

    @classmethod
    def ordered(
        cls, n: ArrayLike, d: ArrayLike, y: ArrayLike, runs: Sequence[object], unit: str = MACS
    ) -> SurfacePoints:
        """As `checked`, of however few."""
        columns = [np.asarray(part, dtype=float) for part in (n, d, y)]
        names = np.array([str(run) for run in runs])
        for column, name in zip(columns, ("size", "number of images", "value"), strict=True):
            wrong = ~(np.isfinite(column) & (column > 0))
            if wrong.any():
                raise UserError(
                    f"a joint law needs numbers above 0: the {name} of {names[wrong][0]} is {column[wrong][0]}"
                )
        order = np.lexsort((columns[1], names, columns[0]))
        n, d, y = (column[order] for column in columns)
        _, runs_of = np.unique(names[order], return_inverse=True)
        points = cls(n, d, y, runs_of, _numbered(n, d), _numbered(n, np.ones_like(d)), unit)
        for run in range(runs_of.max() + 1 if len(runs_of) else 0):
            own = runs_of == run
            if len(set(points.sizes[own])) > 1:
                raise UserError(f"{names[order][own][0]} has two sizes: a run has one")
            if len(set(points.cells[own])) < own.sum():
                raise UserError(f"{names[order][own][0]} has two values at one number of images: a run has one")
        return points

    def check_enough(self) -> None:
        """Raises UserError with what is lacking for a joint law."""
        budgets = [len(set(self.cells[self.sizes == size])) for size in range(self.count)]
        enough = sum(count >= LEAST_BUDGETS for count in budgets)
        if enough < LEAST_SIZES:
            raise UserError(
                f"a joint law needs {LEAST_SIZES} sizes with {LEAST_BUDGETS} budgets each at least, here "
                f"{'is' if enough == 1 else 'are'} {enough or 'none'} (budgets of each size: "
                f"{', '.join(map(str, budgets)) or 'none'})"
            )
        if self.seed_freedom < LEAST_SEED_FREEDOM:
            raise UserError(
                f"a joint law needs {plural(LEAST_SEED_FREEDOM, 'second run')} of a size at least, over all sizes, to "
                f"tell how far a seed moves a value; here {'is' if self.seed_freedom == 1 else 'are'} "
                f"{self.seed_freedom or 'none'}"
            )

    @property
    def count(self) -> int:
        """How many sizes."""
        return int(self.sizes.max()) + 1 if len(self.sizes) else 0

    @property
    def seed_freedom(self) -> int:
        """Runs beyond the first of each size: degrees of freedom of what seeds do."""
        return len(set(self.runs)) - self.count

    @property
    def lowest(self) -> float:
        """The lowest mean over seeds: E is at or below it."""
        return float(self.cell_means(self.y).min())

    @property
    def compute(self) -> np.ndarray:
        """n d of each point: training compute but for its unit, where n is in MACs."""
        return np.asarray(self.n * self.d)

    def cell_means(self, values: np.ndarray) -> np.ndarray:
        """Means over the points of each cell, along the last axis: (..., points) -> (..., cells)."""
        places = np.eye(int(self.cells.max()) + 1)[self.cells]
        return np.asarray(values @ places / places.sum(axis=0))

    def only(self, kept: np.ndarray) -> SurfacePoints:
        """The points where `kept` (points,) is True; may be too few (`check_enough`)."""
        return SurfacePoints.ordered(self.n[kept], self.d[kept], self.y[kept], list(self.runs[kept]), self.unit)

    def luck(self) -> tuple[list[np.ndarray], float]:
        """(what seeds did to each run, pooled deviation of a value): from the points' own means, before any fit.

        Of each run of a size that has several: log of its values over the means of their cells, scaled so that they
        vary as single runs do (g runs about their own mean vary by (g - 1) / g), (its points,).
        """
        logs = np.log(self.y)
        off = logs - self.cell_means(logs)[self.cells]
        several = np.bincount(self.cells)[self.cells]
        known = several > 1
        scaled = np.where(known, off * np.sqrt(several / np.maximum(several - 1, 1)), 0.0)
        trajectories = [scaled[self.runs == run][known[self.runs == run]] for run in range(self.runs.max() + 1)]
        freedom = known.sum() - len(set(self.cells[known]))
        return [one for one in trajectories if len(one)], float(np.sqrt((off**2).sum() / max(freedom, 1)))


def _numbered(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whole numbers for pairs that are alike, in order of n and then d."""
    places = []
    for column in (n, d):
        known = np.unique(column)
        starts = np.concatenate([[True], known[1:] > known[:-1] * (1 + ALIKE)]) if len(known) else known.astype(bool)
        places.append((np.cumsum(starts) - 1)[np.searchsorted(known, column)])
    _, numbered = np.unique(np.stack(places), axis=1, return_inverse=True)
    return np.asarray(numbered).reshape(-1)
