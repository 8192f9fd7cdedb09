"""Forecasts against what was measured: hold-outs of a law and the ledger's entries, and how well intervals held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fcdm.analysis.data.labels import family_name
from fcdm.analysis.figures.axes import NOTE, Drawn, legend_below, log_axes
from fcdm.analysis.figures.styles import DOUBLE, SINGLE, Look, label_looks
from fcdm.analysis.stats.joint_laws import JointStudy
from fcdm.forecasts.score_forecasts import LATE, LEVELS_SCORED, WITHDRAWN, ForecastSummary, ScoredForecast, summaries
from fcdm.formatting import plural
from fcdm.laws.predictive import LEVEL, SURE

IN_A_ROW = 3
"""Panels of the calibration side by side."""
TITLE_LENGTH = 32
"""Letters that a panel is wide."""
ROOM, LEAST_ROOM = 0.08, 1.01
"""Around the points: as a share of what they span, and as a factor."""
COLUMNS = ("kind", "label", "measured", "predicted", "low", "high", "state")
FITTED, HELD_OUT = "fitted", "held out"


def predicted_figure(laws: Mapping[str, JointStudy], name: str, scored: Sequence[ScoredForecast] = ()) -> Drawn | None:
    """Predicted against measured: fitted means small, hold-outs as crosses with intervals, the ledger's entries large.

    A forecast that nothing has been measured of stands hollow at the left edge: only its interval is known. `scored`:
    of this metric alone. None without any point.
    """
    shown = [one for one in scored if one.state not in (WITHDRAWN, LATE)]
    families = {label: str(made.surface.rows["family"].iloc[0]) for label, made in laws.items()}
    families |= {group_of(one): one.entry.run.family for one in shown if group_of(one) not in families}
    numbers = pd.DataFrame([*_of_laws(laws), *map(_of_entry, shown)], columns=list(COLUMNS))
    numeric = ["measured", "predicted", "low", "high"]
    numbers[numeric] = numbers[numeric].astype(float)
    if numbers.empty:
        return None
    figure, axes = plt.subplots(figsize=(SINGLE, 2.7))
    known = numbers[["measured", "predicted"]].to_numpy()
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    room = max((high / low) ** ROOM, LEAST_ROOM)
    ends = low / room, high * room
    axes.plot(ends, ends, color="0.5", lw=0.6)
    looks = label_looks(families)
    for label, own in numbers.groupby("label", sort=False):
        _draw_label(axes, own, looks[str(label)], ends[0] * room**0.4)
    axes.set(xscale="log", yscale="log", xlim=ends, xlabel=f"Measured {name}", ylabel=f"Predicted {name}")
    log_axes(axes, 4, 5)
    present = list(dict.fromkeys(map(str, numbers["label"])))
    handles = [
        Line2D([], [], color=looks[label].colour, marker=looks[label].markers[0], linestyle="none") for label in present
    ]
    legend_below(figure, *_legend(handles, present, numbers), 2.7)
    lines = [f"{label}: {note}" for label, made in laws.items() for note in made.validation.notes]
    for state in (WITHDRAWN, LATE):
        count = sum(one.state == state for one in scored)
        lines += [f"left out: {plural(count, f'{state} forecast')}"] if count else []
    numbers.attrs["left_out"] = lines
    return figure, numbers


def group_of(one: ScoredForecast) -> str:
    """What law foretold it, by its name in figures; of an entry that does not say it, the family."""
    return str(one.entry.fit["settings"].get("group") or family_name(one.entry.run.family))


def _of_laws(laws: Mapping[str, JointStudy]) -> Iterator[dict[str, Any]]:
    for label, made in laws.items():
        points, law = made.validation.fit.points, made.validation.fit.law
        measured = points.cell_means(points.y)
        said = law(points.cell_means(points.n), points.cell_means(points.d))
        for y, value in zip(measured, said, strict=True):
            yield {"kind": FITTED, "label": label, "measured": y, "predicted": value}
        for out in made.validation.held_out:
            low, high = out.forecast.new_run.interval(LEVEL)
            row = {"kind": HELD_OUT, "label": label, "measured": out.measured, "low": low, "high": high}
            yield {**row, "predicted": out.forecast.new_run.median, "state": f"without {out.left_out}: {out.state}"}


def _of_entry(one: ScoredForecast) -> dict[str, Any]:
    low, high = one.entry.new_run.interval(LEVEL)
    row = {"kind": one.entry.kind, "label": group_of(one), "measured": one.measured, "low": low, "high": high}
    return {**row, "predicted": one.entry.new_run.median, "state": one.state}


def _draw_label(axes: Axes, own: pd.DataFrame, look: Look, edge: float) -> None:
    fitted, held = own[own["kind"] == FITTED], own[own["kind"] == HELD_OUT]
    asked = own[~own["kind"].isin([FITTED, HELD_OUT])]
    of_look: dict[str, Any] = {"color": look.colour, "linestyle": "none"}
    marked = {**of_look, "marker": look.markers[0]}
    axes.plot(fitted["measured"], fitted["predicted"], **marked, ms=2, alpha=0.5)
    axes.vlines(held["measured"], held["low"], held["high"], color=look.colour, lw=0.6)
    axes.plot(held["measured"], held["predicted"], **of_look, marker="x", mew=1.1)
    at = asked["measured"].fillna(edge)
    axes.vlines(at, asked["low"], asked["high"], color=look.colour, lw=1.2)
    there = asked["measured"].notna()
    axes.plot(at[there], asked["predicted"][there], **marked, ms=6, markeredgecolor="white")
    axes.plot(at[~there], asked["predicted"][~there], **marked, ms=6, markerfacecolor="white")


def _legend(handles: Sequence[Any], texts: Sequence[str], numbers: pd.DataFrame) -> tuple[list[Any], list[str]]:
    kinds = set(numbers["kind"])
    asked = numbers[~numbers["kind"].isin([FITTED, HELD_OUT])]
    grey: dict[str, Any] = {"color": "0.3", "marker": "o"}
    others = (
        (FITTED in kinds, Line2D([], [], **grey, ms=2, linestyle="none"), "fitted"),
        (HELD_OUT in kinds, Line2D([], [], color="0.3", marker="x", mew=1.1, lw=0.6), f"held out, {SURE} of a run"),
        (asked["measured"].notna().any(), Line2D([], [], **grey, ms=6, lw=1.2), "of the ledger"),
        (
            asked["measured"].isna().any(),
            Line2D([], [], **grey, markerfacecolor="white", ms=6, lw=1.2),
            "forecast, not measured yet",
        ),
    )
    shown = [(handle, text) for there, handle, text in others if there]
    return [*handles, *(handle for handle, _ in shown)], [*texts, *(text for _, text in shown)]


def calibration_figure(scored: Sequence[ScoredForecast]) -> Drawn | None:
    """How often intervals held: a panel for each kind and metric, stated levels against k of n with its exact interval.

    Below each, where measured values fell in the distributions that foretold them (PIT): evenly, where these are right.
    None where nothing is scored.
    """
    groups = [one for one in summaries(scored) if one.trajectories]
    if not groups:
        return None
    columns, rows = min(IN_A_ROW, len(groups)), -(-len(groups) // IN_A_ROW)
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(SINGLE if columns == 1 else DOUBLE, 2.8 * rows), squeeze=False,
        height_ratios=[4, 1] * rows,
    )  # fmt: skip
    parts = []
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = grid[2 * row][column], grid[2 * row + 1][column]
        if place >= len(groups):
            upper.remove()
            lower.remove()
            continue
        one = groups[place]
        parts += [*_coverage(upper, one), *_places(lower, one, scored)]
        if column == 0:
            upper.set_ylabel("Share that held")
    numbers = pd.DataFrame(parts, columns=["kind", "metric", "level", "hits", "trajectories", "low", "high", "pit"])
    numbers.attrs["left_out"] = []
    return figure, numbers


def _coverage(axes: Axes, one: ForecastSummary) -> Iterator[dict[str, Any]]:
    axes.plot([0, 1], [0, 1], color="0.5", lw=0.6)
    for level in LEVELS_SCORED:
        low, high = one.coverage(level)
        share = one.hits[level] / one.trajectories
        axes.vlines(level, low, high, color="0.3", lw=1.0)
        axes.plot(level, share, color="black", marker="o", ms=4)
        text = f"{one.hits[level]}/{one.trajectories}"
        axes.annotate(text, (level, share), (-4, -3), textcoords="offset points", fontsize=NOTE, ha="right")
        yield {"kind": one.kind, "metric": one.metric, "level": level, "hits": one.hits[level],
               "trajectories": one.trajectories, "low": low, "high": high}  # fmt: skip
    axes.set(xlim=(0.25, 1.02), ylim=(-0.05, 1.05), xlabel="Stated level", xticks=LEVELS_SCORED)
    axes.set_title(fill(f"{one.kind}, {one.metric}", TITLE_LENGTH), loc="left", fontsize=NOTE)


def _places(axes: Axes, one: ForecastSummary, scored: Sequence[ScoredForecast]) -> Iterator[dict[str, Any]]:
    group = (one.kind, one.metric)
    own = [each for each in scored if each.counted and (each.entry.kind, each.entry.metric_name) == group]
    places = [each.score.pit for each in own if each.score is not None and each.score.pit is not None]
    axes.plot(places, np.zeros(len(places)), color="black", marker="|", ms=9, linestyle="none")
    axes.set(xlim=(0, 1), yticks=[], xlabel="PIT")
    for place in places:
        yield {"kind": one.kind, "metric": one.metric, "pit": place}
