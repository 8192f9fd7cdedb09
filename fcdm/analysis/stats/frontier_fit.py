"""The law of a compute frontier: of the envelope of interpolated curves, where what was trained does not limit it.

Places on an envelope are no independent measurements: one model's luck moves its whole stretch. So the fit counts as
many independent pieces as there are models on it, weighed by how much of it is theirs, however fine the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from fcdm.analysis.stats.frontier import (
    ModelCurve,
    beaten_before,
    curves_of,
    limited_by_budgets,
    lowest_of,
    measured_table,
)
from fcdm.analysis.stats.measured_points import Points
from fcdm.analysis.stats.power_law import HUBER
from fcdm.analysis.stats.power_law_fit import (
    LEAST_POINTS,
    LEAST_TRAJECTORIES,
    LEVEL,
    RESAMPLES,
    Fit,
    Sampled,
    fit_curve,
)
from fcdm.formatting import plural

LEAST_MODELS = 3
"""On the fitted part: two curves and where they cross tell nothing about a family."""
GRID = 240
"""Computes at which the envelope is told, evenly over the logarithm."""
FITTED = 48
"""Of the part that is fitted so many are enough."""
_ON_IT = "on the part of the envelope that the trained budgets do not limit"
ONE_BUDGET = (
    "every model has one budget: that is size scaling at fixed steps, not a frontier, "
    "which takes several budgets of each model"
)


@dataclass(frozen=True)
class Frontier:
    """A family's envelope, and its law."""

    curves: pd.DataFrame
    """Every mean: model, x, y, runs, on_frontier, last_budget."""
    envelope: pd.DataFrame
    """x, y, model, limited, fitted: the lowest interpolated value, where the trained budgets limit it, and where a law
    is fitted. Without the places that a model had beaten with less compute. Empty where there is none."""
    law: Fit | str
    """The fit, or why there is none. Whether it may be told: its `no_law`."""
    notes: tuple[str, ...] = ()
    """What a reader has to know of the envelope."""


def fit_frontier(
    x: ArrayLike,
    y: ArrayLike,
    trajectories: Sequence[object],
    models: Sequence[object],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    huber: float = HUBER,
) -> Frontier:
    """The envelope of the models' mean curves over seeds, and its law; `x` compute, `y` FID or loss, shape (n,).

    The law is fitted where two models at least are measured and the budgets do not limit the envelope. Each resample
    has seeds of its own at all budgets of a model and an envelope of its own, so that the choice of the best is in the
    interval.
    """
    points = Points.checked(x, y, trajectories, models)
    curves, lost = curves_of(points)
    table, notes = measured_table(curves), (*points.notes, *lost)
    nothing = pd.DataFrame({"x": [], "y": [], "model": [], "limited": [], "fitted": []})
    if not curves:
        return Frontier(table, nothing, "no point that is a finite number above 0", notes)
    if all(len(curve.x) < 2 for curve in curves):
        return Frontier(table, nothing, ONE_BUDGET, notes)
    places = np.geomspace(min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves), GRID)
    logs, best, there = lowest_of(curves, places)
    limited = limited_by_budgets(curves, places)
    stands = (there > 0) & ~beaten_before(curves, places)
    fitted = (there >= 2) & ~limited & stands
    names = np.array([curve.name for curve in curves])
    envelope = pd.DataFrame(
        {"x": places, "y": np.exp(logs), "model": names[best], "limited": limited, "fitted": fitted}
    )[stands]
    notes += _edges(table, places, limited & (there > 0))
    why = _too_little(table, places[fitted], names[best][fitted])
    if why:
        return Frontier(table, envelope, why, notes)
    sampled = _sampled(curves, points, _thinned(places[fitted]), table, level, resamples, seed)
    return Frontier(table, envelope, fit_curve(sampled, level=level, seed=seed, huber=huber), notes)


def _thinned(places: np.ndarray) -> np.ndarray:
    """FITTED of them, the first and the last among them."""
    return np.asarray(places[np.unique(np.linspace(0, len(places) - 1, FITTED).round().astype(int))])


def _too_little(table: pd.DataFrame, fitted: np.ndarray, best: np.ndarray) -> str:
    """Why the fitted part of an envelope is too short for a law; "" where it is not."""
    if len(set(table["model"])) == 1:
        return f"one model: a frontier needs {LEAST_MODELS}"
    if not len(fitted):
        return "at no compute are two models measured where the trained budgets do not limit the envelope"
    if len(set(best)) < LEAST_MODELS:
        return f"{plural(len(set(best)), 'model')} {_ON_IT}, at least {LEAST_MODELS} needed"
    inside = _within(table[table["on_frontier"]], fitted)
    if len(np.unique(inside["x"])) < LEAST_POINTS:
        return f"{plural(len(inside), 'measured point')} {_ON_IT}, at least {LEAST_POINTS} needed"
    return ""


def _within(rows: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
    return rows[rows["x"].between(places.min() * (1 - 1e-9), places.max() * (1 + 1e-9))]


def _edges(table: pd.DataFrame, places: np.ndarray, limited: np.ndarray) -> tuple[str, ...]:
    """Which best points are their model's last budget, and where budgets limit the envelope."""
    last = table[table["on_frontier"] & table["last_budget"]]
    notes: tuple[str, ...] = ()
    if len(last):
        each = [f"{row.model} at {row.x:.3g}" for row in last.itertuples()]
        shown = ", ".join(each[:4]) + (f" and {len(each) - 4} more" if len(each) > 4 else "")
        notes += (f"best at their model's last budget, so that longer training may have been better: {shown}",)
    if limited.any():
        starts = np.flatnonzero(limited & ~np.r_[False, limited[:-1]])
        ends = np.flatnonzero(limited & ~np.r_[limited[1:], False])
        ranges = [f"{places[a]:.3g} to {places[b]:.3g}" for a, b in zip(starts, ends, strict=True)]
        notes += (f"limited by which budgets were trained, and not fitted: {', '.join(ranges)}",)
    return notes


def _sampled(
    curves: Sequence[ModelCurve],
    points: Points,
    at: np.ndarray,
    table: pd.DataFrame,
    level: float,
    resamples: int,
    seed: int,
) -> Sampled:
    """The envelope at `at` (m,), its pieces, and how it would be with other seeds.

    A model's curve with other seeds: its mean, and its runs' deviations from it times normal numbers, which have the
    covariance of a mean. The best of curves that are noisier once more is lower still: that shift is taken out.
    """
    logs, best, _ = lowest_of(curves, at)
    found, pieces = np.unique(best, return_inverse=True)
    shares = np.bincount(pieces) / len(at)
    count = float(1 / (shares**2).sum())
    weights = np.full(len(at), count / len(at))
    shared = {
        "x": at,
        "y": np.exp(logs),
        "weights": weights,
        "pieces": pieces,
        "lowest": float(table["y"].min()),
        "points": len(_within(table[table["on_frontier"]], at)),
    }
    fewest, runs = points.fewest_runs()
    if runs < LEAST_TRAJECTORIES:
        why = f"no interval: {plural(runs, 'seed')} of {fewest}, at least {LEAST_TRAJECTORIES} needed"
        empty = np.empty((0, len(at)))
        return Sampled(**shared, draws=empty, draw_weights=empty, no_interval=why)
    random = np.random.default_rng(seed)
    lowest = np.full((resamples, len(at)), np.inf)
    for curve in curves:
        size = len(curve.deviations)
        normal = random.normal(size=(resamples, size)) / np.sqrt(size * (size - 1))
        drawn = (curve.logs + normal @ curve.deviations) @ curve.weights(at).T
        lowest = np.fmin(lowest, drawn)
    members = [curves[place] for place in found]
    freedom = sum(len(curve.deviations) - 1 for curve in members)
    return Sampled(
        **shared,
        draws=np.exp(lowest + logs - lowest.mean(axis=0)),
        draw_weights=np.broadcast_to(weights, lowest.shape),
        spread=float(stdtrit(freedom, (1 + level) / 2) / ndtri((1 + level) / 2)),
        noise=float(np.sqrt(lowest.var(axis=0).mean())),
        noise_freedom=float(freedom),
    )
