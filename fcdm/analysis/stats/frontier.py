"""The compute frontier of several models: the lower envelope of their interpolated curves. Pure functions on arrays.

As arXiv 2203.15556, approach 1: between two measured budgets log FID is a straight line over log compute, and each
model stands only between its own first and last budget. The best of measured points alone would be a staircase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fcdm.analysis.stats.measured_points import Points

AT_ONCE = 1e-9
"""Relative: computes this close are one."""


@dataclass(frozen=True)
class ModelCurve:
    """One model's mean curve over its seeds."""

    name: str
    x: np.ndarray
    """Its budgets in compute, (k,), rising."""
    logs: np.ndarray
    """log of the mean at each, (k,)."""
    deviations: np.ndarray
    """(runs, k): log of each run's value over the mean."""

    def weights(self, at: np.ndarray) -> np.ndarray:
        """(m, k): the interpolated log at `at` (m,) is this times `logs`; NaN outside the model's budgets."""
        u, v = np.log(self.x), np.log(at)
        found = np.zeros((len(at), len(u)))
        for place in range(len(u)):
            found[:, place] = np.interp(v, u, np.eye(len(u))[place])
        outside = (at < self.x[0] * (1 - AT_ONCE)) | (at > self.x[-1] * (1 + AT_ONCE))
        found[outside] = np.nan
        return found

    def at(self, at: np.ndarray) -> np.ndarray:
        """Interpolated log, (m,); NaN outside."""
        return np.asarray(self.weights(at) @ self.logs)

    def drawn_on(self, at: np.ndarray) -> np.ndarray:
        """As `at`, but beyond its budgets its first and last stretch go on straight, in log over log."""
        if len(self.x) < 2:
            return np.full(len(at), np.nan)
        u, v = np.log(self.x), np.log(at)
        before = self.logs[0] + (self.logs[1] - self.logs[0]) / (u[1] - u[0]) * (v - u[0])
        after = self.logs[-1] + (self.logs[-1] - self.logs[-2]) / (u[-1] - u[-2]) * (v - u[-1])
        return np.asarray(np.where(v < u[0], before, np.where(v > u[-1], after, np.interp(v, u, self.logs))))


def curves_of(points: Points) -> tuple[list[ModelCurve], tuple[str, ...]]:
    """Each model's mean curve at the budgets that all of its runs have, and a note on what that leaves out."""
    curves, lost, whose = [], 0, []
    for name in sorted(set(points.models)):
        mine = points.models == name
        runs = sorted(set(points.trajectories[mine]))
        by_x = [
            [points.y[mine & (points.x == x) & (points.trajectories == run)] for run in runs]
            for x in np.unique(points.x[mine])
        ]
        whole = np.array([all(len(values) for values in at) for at in by_x])
        if not whole.all():
            lost += int((~whole).sum())
            whose.append(str(name))
        if not whole.any():
            continue
        values = np.array([[one.mean() for one in at] for at, kept in zip(by_x, whole, strict=True) if kept]).T
        mean = values.mean(0)
        x = np.unique(points.x[mine])[whole]
        curves.append(ModelCurve(str(name), x, np.log(mean), np.log(values / mean)))
    notes = (f"left out: {lost} budgets that not every seed has reached ({', '.join(whose)})",) if lost else ()
    return curves, notes


def lowest_of(curves: Sequence[ModelCurve], at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log of the envelope, the place of its model in `curves`, how many are measured there), each (m,)."""
    logs = np.array([curve.at(at) for curve in curves])
    there = np.isfinite(logs)
    filled = np.where(there, logs, np.inf)
    best = np.argmin(filled, axis=0)
    return filled[best, np.arange(len(at))], best, there.sum(axis=0)


def beaten_before(curves: Sequence[ModelCurve], at: np.ndarray) -> np.ndarray:
    """True at the computes (m,) where a model whose budgets ended before had a lower value than all measured there.

    More compute never costs what less has reached: such a place is on no frontier.
    """
    ended = [np.where(at > curve.x[-1] * (1 + AT_ONCE), curve.logs.min(), np.inf) for curve in curves]
    return np.asarray(np.min(ended, axis=0) < lowest_of(curves, at)[0] - AT_ONCE)


def measured_table(curves: Sequence[ModelCurve]) -> pd.DataFrame:
    """Every mean: model, x, y, runs, on_frontier (no other curve is lower, there or before), last_budget (its model's).

    A model with one budget has no curve: its point is on the frontier only where it beats another's.
    """
    rows = []
    for curve in curves:
        lowest, _, there = lowest_of(curves, curve.x)
        beaten = beaten_before(curves, curve.x)
        for place, x in enumerate(curve.x):
            rows.append(
                {
                    "model": curve.name,
                    "x": float(x),
                    "y": float(np.exp(curve.logs[place])),
                    "runs": len(curve.deviations),
                    "on_frontier": bool(
                        curve.logs[place] <= lowest[place] + AT_ONCE
                        and not beaten[place]
                        and (len(curve.x) > 1 or there[place] > 1)
                    ),
                    "last_budget": place == len(curve.x) - 1,
                }
            )
    columns = ["model", "x", "y", "runs", "on_frontier", "last_budget"]
    return pd.DataFrame(rows, columns=columns).sort_values(["x", "model"], ignore_index=True)


def limited_by_budgets(curves: Sequence[ModelCurve], at: np.ndarray) -> np.ndarray:
    """True at the computes (m,) where the envelope is limited by which budgets were trained.

    A model that is still the best at its last budget might have stayed so, and one that is already the best at its
    first might have been so before: as far as its curve, drawn on straight, would lie below the envelope. (A curve that
    bends as E + A x^-alpha does lies above that line, so that nothing limited is missed.)
    """
    lowest = lowest_of(curves, at)[0]
    limited = np.zeros(len(at), dtype=bool)
    for curve in curves:
        if len(curve.x) < 2:
            continue
        ends = curve.x[[0, -1]]
        first, last = curve.logs[[0, -1]] <= lowest_of(curves, ends)[0] + AT_ONCE
        below = curve.drawn_on(at) < lowest
        limited |= below & ((first & (at < ends[0])) | (last & (at > ends[1])))
    return limited


def at_compute(curves: pd.DataFrame, computes: ArrayLike) -> pd.DataFrame:
    """The iso-FLOP view: every model's FID at each compute, and which is best: compute, model, fid, best.

    `curves`: columns model, x, y. Interpolated as for the envelope: a model that was not measured on both sides of a
    compute has no row there.
    """
    rows, wanted = [], np.atleast_1d(np.asarray(computes, dtype=float))
    for name, of_model in curves.groupby("model", sort=True):
        ordered = of_model.sort_values("x")
        y = np.log(ordered["y"].to_numpy(float))
        logs = ModelCurve(str(name), ordered["x"].to_numpy(float), y, np.zeros((1, len(y)))).at(wanted)
        rows += [
            {"compute": compute, "model": name, "fid": np.exp(log)}
            for compute, log in zip(wanted, logs, strict=True)
            if np.isfinite(log)
        ]
    found = pd.DataFrame(rows, columns=["compute", "model", "fid"])
    best = found.groupby("compute")["fid"].transform("min") if len(found) else found["fid"]
    return found.assign(best=found["fid"] == best).sort_values(["compute", "model"], ignore_index=True)
