"""The same samples in several spaces of features, a panel each: whether a ranking depends on who looks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.lines import Line2D

from fcdm.analysis.data.curves import has_log
from fcdm.analysis.data.epochs import epochs_each
from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.data.seed_curves import curve_notes, seed_curves
from fcdm.analysis.figures.axes import Drawn, epochs_above, fid_axis, legend_below, log_axes, step_ticks
from fcdm.analysis.figures.styles import DOUBLE, line_styles

PANELS = 3
"""Side by side; of more spaces there are more rows."""
HEIGHT = 1.9
"""Inches of a panel."""


def spaces_figure(table: pd.DataFrame, beside: Mapping[str, pd.DataFrame]) -> Drawn | None:
    """Distance against training steps, a panel for each space and a line for each model, the headline's space first.

    beside: tables of the same runs, as of `spaces_beside`. None where there is no second space to draw.
    """
    tables = [
        one for one in (table, *beside.values()) if any(has_log(line.points["fid"]).any() for line in seed_curves(one))
    ]
    if len(tables) < 2:
        return None
    columns = min(len(tables), PANELS)
    rows = -(-len(tables) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(DOUBLE, HEIGHT * rows), squeeze=False)
    numbers, left_out, styles = [], [], line_styles(seed_curves(table))
    for axes, one in zip(panels.flat, tables, strict=False):
        curves = seed_curves(one)
        styles |= {label: style for label, style in line_styles(curves).items() if label not in styles}
        axes.set(xscale="log", yscale="log", xlabel="Training steps", ylabel=fid_axis(one))
        for whole in curves:
            line, below = whole.for_log_axes()
            left_out += [f"{one_line} ({distance_of(one)})" for one_line in below]
            axes.plot(line.points["steps"], line.points["fid"], **styles[line.label])
            if line.seeds > 1:
                low, high = line.points["fid_min"], line.points["fid_max"]
                axes.fill_between(line.points["steps"], low, high, color=styles[line.label]["color"], alpha=0.2, lw=0)
            points = line.points[["steps", "epochs", "fid", "fid_min", "fid_max"]]
            numbers.append(points.assign(distance=distance_of(one), label=line.label, seeds=line.seeds))
        log_axes(axes)
        step_ticks(axes.xaxis, sorted({int(step) for line in curves for step in line.points["steps"]}))
        epochs_above(axes, epochs_each(pd.concat([line.points for line in curves]), "steps"))
        left_out += [f"{line} ({distance_of(one)})" for line in curve_notes(one)]
    for axes in panels.flat[len(tables) :]:
        axes.set_visible(False)
    drawn = list(dict.fromkeys(part["label"].iloc[0] for part in numbers))
    legend_below(figure, [Line2D([], [], **styles[label]) for label in drawn], drawn, HEIGHT * rows, most=4)
    shown = pd.concat(numbers, ignore_index=True)
    shown = shown[["distance", "label", "seeds", "steps", "epochs", "fid", "fid_min", "fid_max"]]
    shown.attrs["left_out"] = left_out
    return figure, shown
