"""Forecasts against what was measured: hold-outs of a law and the ledger's entries, and how well intervals held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from fcdm.analysis.data.labels import family_name
from fcdm.analysis.figures.axes import NOTE, Drawn, legend_below, log_axes
from fcdm.analysis.figures.styles import DOUBLE, SINGLE, family_looks
from fcdm.laws.hold_outs import Validation
from fcdm.laws.joint_fit import LEVEL
from fcdm.laws.scores import hit_interval
from fcdm.ledger.score_forecasts import LEVELS_SCORED, ScoredForecast, summaries

SURE = f"{100 * LEVEL:.0f} %"
TARGETS = "forecast, not measured yet"


def predicted_figure(
    laws: Mapping[str, Validation], name: str, scored: Sequence[ScoredForecast] = (), metric: str = "fid"
) -> Drawn:
    """Predicted against measured: fitted means small, hold-outs as crosses with intervals, the ledger's entries large.

    A forecast that nothing has been measured of stands hollow at the left edge: only its interval is known. `metric`:
    which of the ledger's entries are shown.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 2.9))
    entries = [one for one in scored if one.entry.metric == metric and one.state != "withdrawn"]
    looks = family_looks({*laws, *(one.entry.run.family for one in entries)})
    rows: list[dict[str, Any]] = []
    for family, one in laws.items():
        points = one.fit.points
        measured = np.exp(points.cell_means(np.log(points.y)))
        law = one.fit.law(points.cell_means(points.n), points.cell_means(points.d))
        rows += [
            {"kind": "fitted", "family": family, "measured": y, "predicted": said}
            for y, said in zip(measured, law, strict=True)
        ]
        for out in one.held_out:
            low, high = out.forecast.new_run.interval(LEVEL)
            row = {"kind": f"without {out.left_out}", "family": family, "measured": out.measured, "low": low}
            rows.append({**row, "predicted": out.forecast.new_run.median, "high": high, "state": out.state})
    for each in entries:
        low, high = each.entry.new_run.interval(LEVEL)
        row = {"kind": each.entry.kind, "family": each.entry.run.family, "measured": each.measured, "low": low}
        rows.append({**row, "predicted": each.entry.new_run.median, "high": high, "state": each.state})
    numbers = pd.DataFrame(rows, columns=["kind", "family", "measured", "predicted", "low", "high", "state"])
    numbers["measured"] = numbers["measured"].astype(float)
    known = numbers[["measured", "predicted"]].to_numpy()
    ends = np.array([np.nanmin(known) / 1.15, np.nanmax(known) * 1.15])
    axes.plot(ends, ends, color="0.5", lw=0.6)
    for label, own in numbers.groupby("family", sort=False):
        colour, marker = looks[str(label)].colour, looks[str(label)].markers[0]
        fitted, held = own[own["kind"] == "fitted"], own[own["kind"].str.startswith("without")]
        asked = own[~own.index.isin([*fitted.index, *held.index])]
        axes.plot(
            fitted["measured"], fitted["predicted"], color=colour, marker=marker, linestyle="none", ms=2, alpha=0.5
        )
        axes.vlines(held["measured"], held["low"], held["high"], color=colour, lw=0.6)
        axes.plot(held["measured"], held["predicted"], color=colour, marker="x", linestyle="none", mew=1.1)
        at = asked["measured"].fillna(ends[0] * 1.05)
        axes.vlines(at, asked["low"], asked["high"], color=colour, lw=1.2)
        for where, face in ((asked["measured"].notna(), colour), (asked["measured"].isna(), "white")):
            look: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": face, "linestyle": "none"}
            axes.plot(
                at[where],
                asked["predicted"][where],
                **look,
                ms=6,
                markeredgecolor=colour if face == "white" else "white",
            )
    axes.set(xscale="log", yscale="log", xlim=ends, xlabel=f"Measured {name}", ylabel=f"Predicted {name}")
    log_axes(axes, 4, 5)
    handles = [Line2D([], [], color=looks[str(family)].colour, marker=looks[str(family)].markers[0], linestyle="none")
               for family in dict.fromkeys(numbers["family"])]  # fmt: skip
    texts = [family_name(str(family)) for family in dict.fromkeys(numbers["family"])]
    handles += [Line2D([], [], color="0.3", marker="o", ms=2, linestyle="none")]
    handles += [Line2D([], [], color="0.3", marker="x", mew=1.1, lw=0.6)]
    texts += ["fitted", f"held out, {SURE} of one new run"]
    if entries:
        handles.append(Line2D([], [], color="0.3", marker="o", ms=6, lw=1.2))
        texts.append("of the ledger")
    if any(one.measured is None for one in entries):
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", ms=6, lw=1.2))
        texts.append(TARGETS)
    legend_below(figure, handles, texts, 2.9)
    numbers.attrs["left_out"] = [f"{family_name(family)}: {note}" for family, one in laws.items() for note in one.notes]
    return figure, numbers


def calibration_figure(scored: Sequence[ScoredForecast]) -> Drawn | None:
    """How often intervals held: a panel for each kind and metric, stated levels against k of n with its exact interval.

    Below each, where measured values fell in the distributions that foretold them (PIT): evenly, where these are right.
    None where nothing is scored.
    """
    groups = [one for one in summaries(scored) if one.trajectories]
    if not groups:
        return None
    figure, grid = plt.subplots(
        2, len(groups), figsize=(max(SINGLE, min(DOUBLE, 1.9 * len(groups))), 2.8), squeeze=False,
        height_ratios=[3, 1], sharex="row",
    )  # fmt: skip
    rows = []
    for column, one in zip(grid.T, groups, strict=True):
        upper, lower = column
        upper.plot([0, 1], [0, 1], color="0.5", lw=0.6)
        for level in LEVELS_SCORED:
            low, high = hit_interval(one.hits[level], one.trajectories)
            share = one.hits[level] / one.trajectories
            upper.vlines(level, low, high, color="0.3", lw=1.0)
            upper.plot(level, share, color="black", marker="o", ms=4)
            upper.annotate(f"{one.hits[level]}/{one.trajectories}", (level, share), (-4, 4), textcoords="offset points",
                           fontsize=NOTE, ha="right")  # fmt: skip
            rows.append({"kind": one.kind, "metric": one.metric, "level": level, "hits": one.hits[level],
                         "trajectories": one.trajectories, "low": low, "high": high})  # fmt: skip
        upper.set(xlim=(0.3, 1.02), ylim=(-0.03, 1.05), xlabel="Stated level")
        upper.set_title(f"{one.kind}, {one.metric}", loc="left", fontsize=NOTE)
        places = [
            each.score.pit
            for each in scored
            if each.counted and each.score and (each.entry.kind, each.entry.metric) == (one.kind, one.metric)
        ]
        known = [place for place in places if place is not None]
        lower.plot(known, np.zeros(len(known)), color="black", marker="|", ms=9, linestyle="none")
        lower.set(xlim=(0, 1), yticks=[], xlabel="PIT")
        rows += [{"kind": one.kind, "metric": one.metric, "pit": place} for place in known]
    grid[0][0].set_ylabel("Share that held")
    numbers = pd.DataFrame(rows, columns=["kind", "metric", "level", "hits", "trajectories", "low", "high", "pit"])
    numbers.attrs["left_out"] = []
    return figure, numbers
