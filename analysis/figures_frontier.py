"""The compute frontier of each family: the best FID at each training compute, its law, and how sure that is."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.axes import NOTE, Drawn, fid_label, legend_columns, log_axes
from analysis.comparison import dropped
from analysis.figures_size import marker_of
from analysis.fits import Fit
from analysis.frontier import mean_curves
from analysis.names import display_name
from analysis.scaling import frontiers_of
from analysis.styles import FAMILIES, OTHERS, SINGLE, lighter

POINTS = 60


def frontier_figure(table: pd.DataFrame) -> Drawn | None:
    """Every model's mean curve thin, the points on the frontier full, the law and its band as far as was measured.

    Where there are too few points for a law or too few seeds for a band, the legend and the CSV say so. None where no
    run says what it costs.
    """
    known = table[np.isfinite(table["fid"]) & (table["fid"] > 0) & (table["train_pflops"] > 0)]
    if known.empty:
        return None
    told, parts, handles, texts = [], [], [], []
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    for family, found in sorted(frontiers_of(known).items(), key=lambda item: (item[0] == "dit", item[0])):
        colour, dashes = FAMILIES.get(family, OTHERS[0])
        name = display_name("", family).rstrip("-")
        fit, curves = (None, _curves(known, family)) if isinstance(found, str) else found
        parts.append(curves.assign(kind="point", family=family))
        _draw_curves(axes, curves, colour, marker_of(family))
        handles.append(Line2D([], [], color=colour, linestyle=dashes, marker=marker_of(family)))
        if fit is None:
            told.append(f"left out: the law of {name}'s frontier: {found}")
            texts.append(f"{name}: too few points for a law")
            continue
        parts.append(_draw_law(axes, fit, colour, dashes).assign(family=family))
        offset = f"{fit.law.offset:.3g} + " if fit.law.offset else ""
        texts.append(f"{name}: {offset}A / C^{fit.law.exponent:.2f}")
        told += [f"{name}'s frontier: {note}" for note in (*fit.notes, fit.no_interval) if note]
    axes.set(xscale="log", yscale="log", xlabel="Training compute C (PFLOPs)", ylabel=fid_label(table))
    axes.autoscale_view()
    log_axes(axes)
    numbers = pd.concat(parts, ignore_index=True)
    if "low" in numbers and numbers["low"].notna().any():
        handles.append(Patch(color="0.8", lw=0))
        texts.append("95 % interval")
    elif (numbers["kind"] == "law").any():
        axes.set_title("no interval: fewer than 3 seeds", fontsize=NOTE, loc="right")
    columns = min(2, legend_columns(texts, SINGLE))
    figure.set_figheight(2.2 + 0.15 * -(-len(texts) // columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    numbers = numbers.rename(columns={"x": "train_pflops", "y": "fid", "model": "label"})
    wanted = ["kind", "family", "label", "train_pflops", "fid", "low", "high", "runs", "on_frontier"]
    numbers = numbers.reindex(columns=wanted)
    numbers.attrs["left_out"] = [*told, *dropped(table)]
    return figure, numbers


def _curves(known: pd.DataFrame, family: str) -> pd.DataFrame:
    """The mean curves of a family that has no law."""
    rows = known[known["family"] == family]
    return mean_curves(rows["train_pflops"], rows["fid"], list(rows["run"]), list(rows["label"]))


def _draw_curves(axes: Axes, curves: pd.DataFrame, colour: str, marker: str) -> None:
    for _, points in curves.groupby("model"):
        thin = {"lw": 0.6, "marker": ".", "markersize": 3, "markeredgewidth": 0}
        axes.plot(points["x"], points["y"], color=lighter(colour, 0.6), zorder=2, **thin)
    on = curves[curves["on_frontier"]]
    axes.plot(on["x"], on["y"], linestyle="none", color=colour, marker=marker, markeredgecolor="white", zorder=4)


def _draw_law(axes: Axes, fit: Fit, colour: str, dashes: object) -> pd.DataFrame:
    told = fit.predict(np.geomspace(*fit.range, POINTS))
    axes.plot(told.x, told.y, color=colour, linestyle=dashes, zorder=3)  # type: ignore[arg-type]
    drawn = pd.DataFrame({"kind": "law", "x": told.x, "y": told.y})
    if told.low is None or told.high is None:
        return drawn
    axes.fill_between(told.x, told.low, told.high, color=colour, alpha=0.2, lw=0)
    return drawn.assign(low=told.low, high=told.high)
