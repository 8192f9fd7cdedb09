"""FID against steps and training FLOPs: the figure that answers the question, and the numbers in it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fcdm.analysis.data.labels import scales
from fcdm.analysis.data.seed_curves import SeedCurve, dropped, seed_curves
from fcdm.analysis.figures.axes import (
    NOTE,
    Drawn,
    fid_label,
    legend_columns,
    log_axes,
    step_ticks,
)
from fcdm.analysis.figures.published_points import LEGEND, named_as, unguided
from fcdm.analysis.figures.styles import FAMILIES, OTHERS, SINGLE, line_styles
from fcdm.analysis.published import PUBLISHED
from fcdm.analysis.stats.model_pairs import Comparison, comparisons
from fcdm.analysis.stats.step_efficiency import RatioRange

FAR_BELOW = 10.0
"""A floor this many times below every FID is told in words: a line for it would flatten the curves."""
MOST_NAMED = 8
"""Of more curves than this only the best setting of each model is named; the others are drawn thin."""

RATIO = "ratio at equal FID"
RATIO_COLUMNS = ["ratio", "ratio_at_fid", "ratio_from", "ratio_to", "unclear"]

AXES = {"steps": "Training steps", "train_flops": "Training compute (FLOPs)"}


def fid_against(table: pd.DataFrame, axis: str, published: pd.DataFrame | None = None) -> Drawn | None:
    """FID against `steps` or `train_flops`, both in log: a line per model (mean of seeds, band from best to worst).

    The dashed grey line is the FID of real images, a note where it is far below; the arrow is the ratio at equal
    FID, where it was measured and is clear. `published`: points of `published()`, hollow, of the same models.
    None where nothing can be drawn: no finite FID, or runs without their costs.
    """
    curves, left_out = _drawable(table, axis)
    if not curves:
        return None
    pairs = comparisons(table)
    named = _named(curves, pairs)
    styles = line_styles([line for line in curves if line.label in named])
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    axes.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel=fid_label(table))  # first: one point has limits then
    for line in curves:
        if line.label in named:
            _draw_line(axes, line, axis, styles)
        else:
            colour = FAMILIES.get(line.family, OTHERS[0])[0]
            thin = {"color": colour, "alpha": 0.4, "lw": 0.6, "marker": ".", "markersize": 3, "markeredgewidth": 0}
            axes.plot(line.points[axis], line.points["fid"], zorder=2, **thin)  # type: ignore[arg-type]
    others = _draw_published(axes, published, curves, axis, left_out, styles)
    _draw_floors(axes, table, curves)
    ratios, written = _arrows(axes, pairs, axis)
    log_axes(axes)
    if axis == "steps":
        drawn = {int(step) for line in curves for step in line.points["steps"]}
        step_ticks(axes.xaxis, sorted(drawn | set(others["steps"] if len(others) else [])))
    handles, texts = axes.get_legend_handles_labels()
    if len(named) < len(curves):
        handles.append(Line2D([], [], color="0.5", lw=0.6, marker=".", markersize=3))
        texts.append(f"{len(curves) - len(named)} other settings")
    if len(others):
        handles.append(Line2D([], [], color="0.35", marker="o", markerfacecolor="white", lw=0.8, linestyle=":"))
        texts.append(LEGEND)
    columns = min(2, legend_columns(texts, SINGLE))
    figure.set_figheight(2.05 + 0.15 * -(-len(texts) // columns) + 0.125 * written)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    own = [line.points.assign(label=line.label, seeds=line.seeds, origin="these runs") for line in curves]
    numbers = pd.concat([*own, others, pd.DataFrame(ratios)], ignore_index=True)
    numbers = numbers.reindex(columns=["label", "origin", "seeds", axis, "fid", "fid_min", "fid_max", *RATIO_COLUMNS])
    numbers.attrs["left_out"] = [*left_out, *dropped(table)]
    return figure, numbers


def _drawable(table: pd.DataFrame, axis: str) -> tuple[list[SeedCurve], list[str]]:
    """The lines that have a place on a log axis, and which have none."""
    curves, left_out = [], []
    for line in seed_curves(table):
        if (line.points[axis] > 0).all() and (line.points["fid"] > 0).all():
            curves.append(line)
        else:
            left_out.append(f"left out: {line.label}: a log axis has no place for {axis} or FID of 0 or unknown")
    return curves, left_out


def _named(curves: list[SeedCurve], pairs: list[Comparison]) -> set[str]:
    """The labels that stand in the legend."""
    if len(curves) <= MOST_NAMED:
        return {line.label for line in curves}
    named = {line.label for pair in pairs for line in (pair.a, pair.b)}
    compared = {line.name for pair in pairs for line in (pair.a, pair.b)}
    best: dict[str, SeedCurve] = {}
    for line in curves:
        if line.name not in compared:
            known = best.setdefault(line.name, line)
            if line.points["fid"].min() < known.points["fid"].min():
                best[line.name] = line
    return named | {line.label for line in best.values()}


def _draw_line(axes: Axes, line: SeedCurve, axis: str, styles: dict[str, dict[str, Any]]) -> None:
    points, style = line.points, styles[line.label]
    axes.plot(points[axis], points["fid"], label=line.label, zorder=3, **style)
    if line.seeds > 1:
        axes.fill_between(points[axis], points["fid_min"], points["fid_max"], color=style["color"], alpha=0.2, lw=0)
    lowest = points["fid"].cummin()
    if (points["fid"] > lowest).any():  # what had been reached counts for the ratio: its ends lie on this line
        axes.plot(points[axis], lowest, color=style["color"], linestyle=(0, (1, 1.5)), lw=0.8, zorder=3)


def _draw_published(
    axes: Axes,
    published: pd.DataFrame | None,
    curves: list[SeedCurve],
    axis: str,
    left_out: list[str],
    styles: dict[str, dict[str, Any]],
) -> pd.DataFrame:
    """Hollow points of the models that are drawn, in their markers, joined where one source measured them alike."""
    if published is None or published.empty:
        return pd.DataFrame()
    points = named_as(unguided(published, left_out), {line.name for line in curves}, left_out)
    points = points[points["fid"].notna()]
    markers = {line.name: styles[line.label]["marker"] for line in curves if line.label in styles}
    for (model, family, series, _), rows in points.groupby(["model", "family", "series", "resolution"]):
        colour = FAMILIES.get(str(family), OTHERS[0])[0]
        ordered = rows.sort_values(axis)
        line = ":" if series else "none"
        look: dict[str, Any] = {
            "linestyle": line,
            "lw": 0.8,
            "color": colour,
            "marker": markers.get(str(model), "o"),
            "markerfacecolor": "none",
        }
        axes.plot(ordered[axis], ordered["fid"], zorder=4, **look)
    return points.assign(origin=PUBLISHED)


def _draw_floors(axes: Axes, table: pd.DataFrame, curves: list[SeedCurve]) -> None:
    """The floor of each data set and resolution."""
    lowest = min(line.points["fid"].min() for line in curves)
    below = 0
    at: dict[float, str] = {}
    for scale, rows in scales(table):
        floor = float(rows["floor"].median())
        at[floor] = at.get(floor, "") + scale
    for floor, where in at.items():
        below += _draw_floor(axes, floor, lowest, where, below)


def _draw_floor(axes: Axes, floor: float, lowest: float, scale: str, below: int) -> bool:
    """What real images score: a line, or (True) a note above `below` others where it lies far below the curves."""
    if not (np.isfinite(floor) and floor > 0):
        return False
    note = f"real images{scale}: {floor:.3g}"
    low, high = axes.get_ylim()
    far = floor * FAR_BELOW < lowest
    if far:
        note += " (below the axis)"
        axes.set_ylim(low / (high / low) ** 0.1, high)  # room for the note under the curves
    else:
        axes.axhline(floor, color="0.35", linestyle=(0, (2, 2)), linewidth=0.9, zorder=1)
        axes.set_ylim(min(low, floor * 0.7), max(high, floor * 2))
    axes.annotate(
        note,
        (0.01, 0.01 if far else floor),
        (0, 2 + (NOTE + 2) * below * far),
        xycoords="axes fraction" if far else axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=NOTE,
        color="0.35",
        va="bottom",
    )
    return far


def _arrows(axes: Axes, pairs: list[Comparison], axis: str) -> tuple[list[dict[str, object]], int]:
    """From the slower model's curve to the faster one's at the headline FID: the ratios, how many lines say them.

    Above the axes stands the largest pair that has a clear ratio; all are rows of the numbers.
    """
    style = {"arrowstyle": "-|>", "color": "0.15", "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    ratio_texts: list[str] = []
    unclear: list[str] = []
    rows: list[dict[str, object]] = []
    several = len({one.a.resolution for one in pairs}) > 1
    for one in pairs:
        ratios = one.steps if axis == "steps" else one.flops
        if not isinstance(ratios, RatioRange):
            continue
        at = f", {one.a.resolution} px" if several else ""
        row = {"label": f"{one.a.label} against {one.b.label}", "origin": RATIO, "ratio": ratios.ratio}
        row |= {"ratio_at_fid": ratios.target, "ratio_from": ratios.steps_b, "ratio_to": ratios.steps_a}
        rows.append({**row, "unclear": ratios.unclear or ""})
        if ratios.unclear:
            unclear.append(f"{one.a.name} against {one.b.name}{at}: no clear ratio")
            continue
        fast, slow = sorted((ratios.steps_a, ratios.steps_b))
        axes.annotate("", (fast, ratios.target), (slow, ratios.target), arrowprops=style, zorder=4)
        more_or_less = "fewer" if ratios.ratio >= 1 else "more"
        times = max(ratios.ratio, 1 / ratios.ratio)
        ratio_texts.append(f"{one.a.name}: {times:.1f}× {more_or_less} than {one.b.name}{at}")
    drawn = len(ratio_texts)
    said = [*unclear, *ratio_texts]
    if said:
        what = "steps" if axis == "steps" else "FLOPs"
        head = f"{what} to equal FID" + ("", " (arrow)", " (arrows)")[min(drawn, 2)]
        more = f" (+{len(said) - 1} in CSV)" if len(said) > 1 else ""
        axes.set_title(f"{head}\n{said[-1]}{more}", fontsize=NOTE, loc="right")
    return rows, 2 if said else 0
