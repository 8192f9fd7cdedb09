"""The compute frontier of several models: the best FID at each compute, and the law of it. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fcdm.analysis.stats.power_law import HUBER, solve
from fcdm.analysis.stats.power_law_fit import LEAST_POINTS, LEVEL, RESAMPLES, Fit, Points, finished, resampled_counts
from fcdm.errors import UserError


def envelope(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """True for each point that no other beats with as little x, shape of `y`: (..., n); `x`: (n,), rising.

    A point of NaN or infinite y is never on it.
    """
    y = np.asarray(y, dtype=float)
    x = np.asarray(x, dtype=float)
    best = np.minimum.accumulate(np.where(np.isfinite(y), y, np.inf), axis=-1)
    before = np.concatenate([np.full_like(best[..., :1], np.inf), best[..., :-1]], axis=-1)
    # Of several points at one x only the best is on the frontier.
    last = np.searchsorted(x, x, side="right") - 1
    return np.asarray((y < before) & (y <= best[..., last]))


def at_compute(curves: pd.DataFrame, computes: ArrayLike) -> pd.DataFrame:
    """The iso-FLOP view: every model's FID at each compute, and which is best: compute, model, fid, best.

    `curves`: columns model, x, y. log FID is a straight line over log compute between two measured points, and nothing
    beyond: a model that was not measured on both sides of a compute has no row there. (As of the ratios at equal FID.)
    """
    rows = []
    for name, of_model in curves.groupby("model", sort=True):
        ordered = of_model.sort_values("x")
        x, y = ordered["x"].to_numpy(float), ordered["y"].to_numpy(float)
        for compute in np.atleast_1d(np.asarray(computes, dtype=float)):
            if x[0] <= compute <= x[-1]:
                rows.append(
                    {"compute": compute, "model": name, "fid": np.exp(np.interp(np.log(compute), np.log(x), np.log(y)))}
                )
    found = pd.DataFrame(rows, columns=["compute", "model", "fid"])
    best = found.groupby("compute")["fid"].transform("min") if len(found) else found["fid"]
    return found.assign(best=found["fid"] == best).sort_values(["compute", "model"], ignore_index=True)


def _log_log(at: float, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.exp(np.interp(np.log(at), np.log(x), np.log(y))))


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
) -> tuple[Fit, pd.DataFrame]:
    """The law of the best FID at each compute, and every model's mean curve with `on_frontier`: model, x, y, runs.

    As `fit_power_law`, on the lower envelope of the models' means over seeds. Each resample draws trajectories, takes
    means and an envelope of its own, so that the interval holds the choice of the points as well. The best of noisy
    points is a little too good; how much, no interval tells. Raises UserError with too few points on the frontier.
    """
    points = Points.checked(x, y, trajectories, models)
    curves, share, lost = _mean_curves(points)
    notes = points.notes + lost
    places, on = curves["x"].to_numpy(float), curves["on_frontier"].to_numpy()
    there = len(np.unique(places[on]))
    if there < LEAST_POINTS:
        more = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(
            f"a frontier's law needs {LEAST_POINTS} budgets on the frontier at least, "
            f"here {'is' if there == 1 else 'are'} {there}{more}"
        )
    means = curves["y"].to_numpy(float)
    law = solve(places, means[None], on[None].astype(float), huber)[0][0]
    counts, spread, why = resampled_counts(points, level, resamples, seed)
    draws = np.empty((0, 3))
    if len(counts):
        # A model's mean at a budget, over the trajectories drawn: (B, points) times (points, means).
        totals = counts @ share.T
        drawn = np.where(totals > 0, (counts * points.y) @ share.T / np.maximum(totals, 1), np.inf)
        chosen = envelope(places, drawn)
        enough = np.array([len(np.unique(places[row])) >= LEAST_POINTS for row in chosen])
        if not enough.all():
            notes += (f"{(~enough).sum()} of {len(enough)} resamples had too short a frontier and were left out",)
        finite = np.where(np.isfinite(drawn), drawn, means)
        draws, _ = solve(places, finite[enough], chosen[enough].astype(float), huber, first=law)
    return finished(places[on], means[on], law, draws, level, spread, why, notes), curves


def mean_curves(x: ArrayLike, y: ArrayLike, trajectories: Sequence[object], models: Sequence[object]) -> pd.DataFrame:
    """Every model's mean curve with `on_frontier`: model, x, y, runs; for what has too few points for a law."""
    return _mean_curves(Points.checked(x, y, trajectories, models))[0]


def _mean_curves(points: Points) -> tuple[pd.DataFrame, np.ndarray, tuple[str, ...]]:
    """Each model's mean over its trajectories at the budgets that all of them have, in order of x.

    Also which points each mean is of, (means, points) of 0 and 1, and what was left out.
    """
    frame = pd.DataFrame({"model": points.models, "x": points.x, "y": points.y, "run": points.trajectories})
    all_runs = frame.groupby("model")["run"].nunique()
    means = frame.groupby(["x", "model"], as_index=False).agg(y=("y", "mean"), runs=("run", "nunique"))
    whole = means["runs"] == means["model"].map(all_runs)
    lost: tuple[str, ...] = ()
    if not whole.all():
        of = ", ".join(sorted(set(means.loc[~whole, "model"].astype(str))))
        lost = (f"left out: {(~whole).sum()} budgets that not every seed has reached ({of})",)
    means = means[whole].sort_values(["x", "model"], ignore_index=True)
    share = np.array(
        [(points.x == x) & (points.models == model) for x, model in zip(means["x"], means["model"], strict=True)],
        dtype=float,
    ).reshape(len(means), len(points.x))
    means["on_frontier"] = envelope(means["x"].to_numpy(float), means["y"].to_numpy(float))
    return means[["model", "x", "y", "runs", "on_frontier"]], share, lost
