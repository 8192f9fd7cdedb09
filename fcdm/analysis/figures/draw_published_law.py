"""Published FIDs over size, drawn: the lines over MACs, and what forms say of sizes that they were not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.figures.axes import legend_below, log_axes
from fcdm.analysis.figures.styles import DOUBLE, SINGLE, Colour, family_looks, shade
from fcdm.analysis.stats.claim_sides import remeasured
from fcdm.analysis.stats.published_law import OF_TWO_FACTORS, ONE_DATA_SIZE, SizeLaw, a_line_each

FORMS = ("a line each", *OF_TWO_FACTORS)
"""A panel for each."""
CUTS = {1: "without the largest", 2: "without the two largest"}
LAST_TWO: dict[str, Any] = {"color": "0.2", "marker": "_", "linestyle": "none", "markersize": 6}
FRAME = 1.6
"""The frame ends this factor beyond the FIDs: an interval of one degree of freedom runs on."""


def lines_figure(table: pd.DataFrame) -> tuple[Figure, str]:
    """FID against forward GMACs, a power law for each line of sizes: fitted to all, and dotted without the two largest.

    `table`: of `sizes_at_one_budget`. Returns the figure and its caption.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 3.0))
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel="FID")
    looks, handles, texts, said = _looks(table), [], [], []
    for _, family in table.groupby("family", sort=False):
        law = a_line_each(family)
        for line, members in family.groupby("line", sort=False):
            style = looks[str(line)]
            axes.plot(members["forward_gmacs"], members["fid"], **style, linestyle="none", zorder=3)
            axes.plot(*_along(law, members), color=style["color"], lw=0.9, zorder=2)
            kept = members[members["rank"] >= 2]
            if len(kept) > 1:
                axes.plot(*_along(a_line_each(kept), members), color=style["color"], lw=0.8, linestyle=(0, (1, 1.5)))
            handles.append(Line2D([], [], **style, lw=0.9))
            texts.append(str(line))
            said.append(f"{line} {law.numbers[f'alpha, {line}']:.2f}")
    handles.append(Line2D([], [], color="0.4", lw=0.8, linestyle=(0, (1, 1.5))))
    texts.append("fitted to the two smallest")
    log_axes(axes)
    legend_below(figure, handles, texts, 2.4)
    return figure, f"FID against MACs, exponents of the lines: {', '.join(said)}. {ONE_DATA_SIZE}"


def hold_out_figure(found: Sequence[pd.DataFrame]) -> tuple[Figure, str]:
    """Predicted against measured FID, a row of panels for each of `found` (of `fitted_without`), a panel for each form.

    Hollow points were fitted; crosses were held out, with the 95 % interval of one new model where there is one; grey
    is the line through the last two points. The band about the diagonal: how far two public runs of one model lie
    apart. Returns the figure and its caption.
    """
    figure, grid = plt.subplots(len(found), len(FORMS), figsize=(DOUBLE, 3.4), sharex=True, sharey=True, squeeze=False)
    apart, _ = remeasured()
    share = f"{100 * apart:.0f} %"
    looks = _looks(pd.concat(found))
    every = pd.concat([pd.concat(found)["measured"], *(part.loc[part["form"].isin(FORMS), "fid"] for part in found)])
    ends = np.array([every.min() / FRAME, every.max() * FRAME])
    for row, part in zip(grid, found, strict=True):
        for axes, form in zip(row, FORMS, strict=True):
            of_form = part[part["form"] == form]
            axes.fill_between(ends, ends * (1 - apart), ends / (1 - apart), color="0.85", lw=0)
            axes.plot(ends, ends, color="0.5", lw=0.6)
            if form == "a line each":
                baseline = part[(part["form"] == "last two") & part["held_out"]]
                axes.plot(baseline["measured"], baseline["fid"], **LAST_TWO, zorder=5)
            for line, members in of_form.groupby("line", sort=False):
                _draw_line(axes, members, looks[str(line)])
            axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            if axes in grid[0]:
                axes.set_title(form)
            log_axes(axes, 3, 5)
        row[0].set_ylabel(f"Predicted FID,\n{CUTS[int(part['largest'].iloc[0])]}")
    for axes in grid[-1]:
        axes.set_xlabel("Measured FID")
    handles, texts = _legend(looks, share)
    legend_below(figure, handles, texts, 3.4, most=4)
    return figure, (
        "Predicted against measured FID: hollow points were fitted, crosses held out, with the 95 % interval of one "
        "new model where degrees of freedom are left for one. Grey: the line through the last two points. "
        f"Band: {share}, how far two public runs of one model lie apart. {ONE_DATA_SIZE}"
    )


def _draw_line(axes: Any, members: pd.DataFrame, look: dict[str, Any]) -> None:
    """The points of one line of sizes."""
    out, fitted = members[members["held_out"]], members[~members["held_out"]]
    axes.plot(fitted["measured"], fitted["fid"], **{**look, "markersize": 2.5}, linestyle="none", zorder=3)
    axes.plot(out["measured"], out["fid"], color=look["color"], marker="x", linestyle="none", mew=1.1, zorder=4)
    axes.vlines(out["measured"], out["low"], out["high"], color=look["color"], lw=0.7, zorder=2)


def _along(law: SizeLaw, members: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(GMACs, FID) of the law over the whole line of sizes."""
    ends = members.iloc[[0, -1]]
    return ends["forward_gmacs"].to_numpy(), law.forecast(ends)["fid"].to_numpy()


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Line of sizes -> how its points are drawn: hollow, for others published them."""
    families = family_looks(table["family"])
    looks: dict[str, dict[str, Any]] = {}
    for family, rows in table.groupby("family", sort=False):
        lines, look = list(dict.fromkeys(rows["line"])), families[str(family)]
        for place, line in enumerate(lines):
            colour: Colour = shade(look.colour, len(lines) - 1 - place, len(lines))
            face = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 0.9}
            looks[str(line)] = {"color": colour, "marker": look.markers[place % len(look.markers)], **face}
    return looks


def _legend(looks: dict[str, dict[str, Any]], share: str) -> tuple[list[Any], list[str]]:
    handles: list[Any] = [Line2D([], [], **look, linestyle="none") for look in looks.values()]
    handles += [Line2D([], [], color="0.3", marker="x", linestyle="none", mew=1.1)]
    handles += [Line2D([], [], **LAST_TWO), Patch(color="0.85", lw=0)]
    texts = [*looks, "held out, 95 %", "last two points", f"{share} apart"]
    return handles, texts
