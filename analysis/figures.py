"""FID against steps, training FLOPs and forward GMACs: one function per figure, each returns its numbers too."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.comparison import Comparison, Line, comparisons, lines
from analysis.step_efficiency import RatioRange
from analysis.styles import FAMILIES, MARKERS, OTHERS, SINGLE, lighter, line_styles
from analysis.table import display_name

FAR_BELOW = 10.0
"""A floor this many times below every FID is told in words: a line for it would flatten the curves."""

AXES = {"steps": "Training steps", "train_pflops": "Training compute (PFLOPs)"}


def fid_against(table: pd.DataFrame, axis: str) -> tuple[Figure, pd.DataFrame] | None:
    """FID against `steps` or `train_pflops`, both in log: a line per model (mean of seeds, band from best to worst).

    The dashed grey line is the FID of real images, a note where it is far below; the arrow is the ratio at equal
    FID, where it was measured and is clear.
    None where nothing can be drawn: no finite FID, or runs without their costs.
    """
    found = _drawable(table, axis)
    if not found:
        return None
    styles = line_styles(found)
    rows = -(-(len(found) + 1) // 2)
    figure, axes = plt.subplots(figsize=(SINGLE, 2.35 + 0.16 * rows))
    for line in found:
        points = line.points
        axes.plot(points[axis], points["fid"], label=line.label, zorder=3, **styles[line.label])
        if line.seeds > 1:
            axes.fill_between(
                points[axis], points["fid_min"], points["fid_max"], color=styles[line.label]["color"], alpha=0.2, lw=0
            )
    axes.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel=fid_label(table))
    floor = table["floor"].median()
    if np.isfinite(floor) and floor > 0:
        note = f"real images against the reference: {floor:.3g}"
        low, high = axes.get_ylim()
        far = floor * FAR_BELOW < min(line.points["fid"].min() for line in found)
        if far:
            note += " (below the axis)"
            axes.set_ylim(low / (high / low) ** 0.1, high)  # room for the note under the curves
        else:
            axes.axhline(floor, color="0.35", linestyle=(0, (2, 2)), linewidth=0.9, zorder=1)
            axes.set_ylim(min(low, floor * 0.8), max(high, floor * 2))
        axes.annotate(
            note,
            (0.01, 0.01 if far else floor),
            (0, 2),
            xycoords="axes fraction" if far else axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=7,
            color="0.35",
            va="bottom",
        )
    told = _arrows(axes, comparisons(table), axis)
    figure.set_figheight(figure.get_figheight() + 0.13 * told)
    _ticks(axes)
    if axis == "steps":
        axes.xaxis.set_major_locator(FixedLocator(_readable(sorted(set(table["steps"])))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: steps_text(value)))
    figure.legend(loc="outside lower center", ncols=2)
    numbers = pd.concat([line.points.assign(label=line.label, seeds=line.seeds) for line in found])
    return figure, numbers[["label", "seeds", axis, "fid", "fid_min", "fid_max"]]


def fid_against_gmacs(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame] | None:
    """FID against the forward pass's GMACs of one image: a line per family and budget, a marker per budget."""
    found = _drawable(table, "forward_gmacs")
    if not found:
        return None
    numbers = pd.concat(
        [line.points.assign(label=line.label, name=line.name, family=line.family) for line in found]
    ).sort_values(["family", "steps", "forward_gmacs"])
    # Of several settings of one model the best counts at each budget.
    best = numbers.sort_values("fid").drop_duplicates(["name", "steps"]).sort_values("forward_gmacs")
    budgets = _spread_budgets(sorted(set(best["steps"])))
    families = sorted(set(best["family"]), key=lambda family: (family == "dit", family))
    rows = max(len(families), -(-len(budgets) // 2))
    figure, axes = plt.subplots(figsize=(SINGLE, 2.45 + 0.16 * rows))
    for family in families:
        colour, dashes = FAMILIES.get(family, OTHERS[0])
        for place, steps in enumerate(budgets):
            of_budget = best[(best["family"] == family) & (best["steps"] == steps)]
            if of_budget.empty:
                continue
            axes.plot(
                of_budget["forward_gmacs"],
                of_budget["fid"],
                color=lighter(colour, 0.5 * (1 - (place + 1) / len(budgets))),
                linestyle=dashes,
                marker=MARKERS[place % len(MARKERS)],
                markeredgecolor="white",
            )
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel=fid_label(table))
    axes.margins(x=0.12)
    _ticks(axes)
    _name_models(axes, best)
    handles, texts = [], []
    for family in families:
        colour, dashes = FAMILIES.get(family, OTHERS[0])
        handles.append(Line2D([], [], color=colour, linestyle=dashes))
        texts.append(display_name("", family).rstrip("-"))
    blank = max(0, rows - len(families))  # families fill the first column, budgets the others
    handles += [Line2D([], [], linestyle="none")] * blank
    texts += [""] * blank
    for place, steps in enumerate(budgets):
        handles.append(Line2D([], [], color="0.35", linestyle="none", marker=MARKERS[place % len(MARKERS)]))
        texts.append(f"{steps_text(steps)} steps")
    figure.legend(handles, texts, loc="outside lower center", ncols=3)
    return figure, best[["label", "family", "forward_gmacs", "steps", "fid", "fid_min", "fid_max"]]


def _drawable(table: pd.DataFrame, axis: str) -> list[Line]:
    """The lines that have a place on a log axis."""
    return [line for line in lines(table) if (line.points[axis] > 0).all()]


def fid_label(table: pd.DataFrame) -> str:
    """`FID-10k` for 10,000 samples; features and reference are the protocol's."""
    samples = int(table["samples"].max())
    if samples <= 0:
        return "FID"
    return f"FID-{samples // 1000}k" if samples % 1000 == 0 else f"FID-{samples}"


def steps_text(steps: float) -> str:
    """400000 -> `400k`."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if steps >= size:
            return f"{steps / size:.3g}{suffix}"
    return f"{steps:.3g}"


def _arrows(axes: Axes, found: list[Comparison], axis: str) -> int:
    """From the slower model's curve to the faster one's at the headline FID; said above the axes, in so many lines."""
    style = {"arrowstyle": "-|>", "color": "0.15", "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    told = []
    drawn = 0
    for one in found:
        ratios = one.steps if axis == "steps" else one.flops
        if not isinstance(ratios, RatioRange):
            continue
        if ratios.unclear:
            told.append(f"{one.a.name} against {one.b.name}: no clear ratio")
            continue
        drawn += 1
        fast, slow = sorted((ratios.steps_a, ratios.steps_b))
        axes.annotate("", (fast, ratios.target), (slow, ratios.target), arrowprops=style, zorder=4)
        more_or_less = "fewer" if ratios.ratio >= 1 else "more"
        times = max(ratios.ratio, 1 / ratios.ratio)
        told.append(f"{one.a.name}: {times:.1f}× {more_or_less} than {one.b.name}")
    if told:
        what = "steps" if axis == "steps" else "FLOPs"
        head = f"{what} to equal FID" + ("", " (arrow)", " (arrows)")[min(drawn, 2)]
        axes.set_title("\n".join([head, *told]), fontsize=7, loc="right")
    return len(told) + 1 if told else 0


def _name_models(axes: Axes, best: pd.DataFrame) -> None:
    """Each model's name above its column of points; upright where models stand close."""
    crowded = best.groupby("family")["name"].nunique().max() > 2
    for name, points in best.groupby("name"):
        top = points.loc[points["fid"].idxmax()]
        axes.annotate(
            str(name),
            (top["forward_gmacs"], top["fid"]),
            (0, 5),
            textcoords="offset points",
            fontsize=7,
            ha="center",
            rotation=90 if crowded else 0,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (0.2 if crowded else 0.06))


def _ticks(axes: Axes) -> None:
    """Few plain numbers on both log axes, whether they show a tenth of a decade or six."""
    for which, most in ((axes.xaxis, 5), (axes.yaxis, 7)):
        low, high = which.get_view_interval()
        which.set_major_locator(FixedLocator(log_ticks(low, high, most)))
        which.set_minor_locator(LogLocator(subs=np.arange(2, 10)) if high / low > 3 else NullLocator())
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        which.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], the densest of a few choices that has at most `most`."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for subs in (np.arange(1, 10, 0.2), np.arange(1, 10, 0.5), np.arange(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3)):
        ticks = [float(f"{sub * 10**decade:.6g}") for decade in decades for sub in subs]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    powers = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    return powers[:: -(-len(powers) // most)]


def _readable(steps: list[int]) -> list[int]:
    """The budgets that can be told apart as ticks on a log axis: the last, and those a third of an octave apart."""
    room = np.log(steps[-1] / steps[0]) / 7 if len(steps) > 1 else 0.0
    kept = [steps[-1]]
    for value in reversed(steps[:-1]):
        if np.log(kept[-1] / value) >= room:
            kept.append(value)
    return sorted(kept)


def _spread_budgets(budgets: list[int], most: int = 6) -> list[int]:
    if len(budgets) <= most:
        return budgets
    return [budgets[round(place)] for place in np.linspace(0, len(budgets) - 1, most)]
