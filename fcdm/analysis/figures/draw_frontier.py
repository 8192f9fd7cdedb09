"""The compute frontier of each family: the best FID at each training compute, its law, and how sure that is."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.data.curves import NOT_ABOVE_0
from fcdm.analysis.data.labels import cooldowns, family_name, scales
from fcdm.analysis.data.seed_curves import curve_notes
from fcdm.analysis.figures.axes import LETTER, NOTE, Drawn, fid_axis, legend_columns, log_axes
from fcdm.analysis.figures.styles import DOUBLE, family_looks, lighter, rim
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.analysis.stats.frontier_fit import Frontier
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import ends_text, fits_table, frontiers_of, law_or_reason, offset_text
from fcdm.formatting import plural, power_text

POINTS = 60
PARAMETERS = ("offset", "scale", "exponent")
MORE = ("level", "from", "to", "points", "scatter", "notes")
THICK, BAND = 1.6, 1.0
"""Width of an envelope, and where a band about its law is to be seen."""
LAW: dict[str, Any] = {"color": "black", "lw": 0.7, "zorder": 5}
COLUMNS = 2
"""Of texts side by side above the curves."""
MOST_REASONS = 4
"""With more families than this the panel says that there is no law, and the CSV why."""
LINE = 0.125
"""Inches of a line of 7 pt."""


def frontier_figure(table: pd.DataFrame) -> Drawn | None:
    """Every model's mean curve thin, their envelope thick, the measured points on it full, its law thin and black.

    A frontier for each family at each data set, resolution and cooldown. E, A and alpha stand in the panel with their
    intervals, or why there is no law; the numbers hold them in rows of the kind `law_parameters`. None where no run
    says what it costs.
    """
    known = table[np.isfinite(table["fid"]) & (table["fid"] > 0) & (table["train_flops"] > 0)]
    if known.empty:
        return None
    below = table["fid"][np.isfinite(table["fid"]) & (table["fid"] <= 0)]
    left_out = [f"left out: {plural(len(below), 'distance')} {NOT_ABOVE_0}"] if len(below) else []
    parts, texts, parameters = [], [], []
    handles: list[Line2D | Patch] = []
    figure, axes = plt.subplots(figsize=(DOUBLE, 2.6))
    for one in family_frontiers(known):
        made, law = one.frontier, law_or_reason(one.frontier)
        of = {"family": one.family, "at": one.at}
        parts += [made.curves.assign(kind="point", **of), made.envelope.assign(kind="envelope", **of)]
        _draw_curves(axes, one)
        look: dict[str, Any] = {"color": one.colour, "linestyle": one.dashes, "marker": one.marker, "lw": _width(law)}
        handles.append(Line2D([], [], **{"markeredgecolor": "white", **look, **rim(one.cooldown)}))
        texts.append((one.name, law))
        left_out += [f"{one.name}'s frontier: {note}" for note in _said(made, law)]
        if isinstance(law, Fit):
            parts.append(_draw_law(axes, law, one).assign(**of))
            row: dict[Any, Any] = fits_table({"": made}).drop(columns="label").to_dict("records")[0]
            parameters.append({"kind": "law_parameters", **of, **row})
    numbers = pd.concat([*parts, pd.DataFrame(parameters)], ignore_index=True)
    axes.set(xscale="log", yscale="log", xlabel="Training compute C (FLOPs)", ylabel=fid_axis(table))
    axes.autoscale_view()
    log_axes(axes)
    figure.draw_without_rendering()  # the layout: what the labels leave of the width
    _write_laws(axes, texts, figure.get_figheight(), axes.get_window_extent().width / figure.dpi)
    log_axes(axes)
    names = [f"{name}: envelope, and measured on it" for name, _ in texts]
    _legend(figure, axes, handles, names, numbers)
    numbers = numbers.rename(columns={"x": "train_flops", "y": "fid", "model": "label"})
    wanted = ["kind", "family", "at", "label", "train_flops", "fid", "low", "high", "runs", "on_frontier"]
    wanted += [
        "last_budget",
        "limited",
        "fitted",
        *(f"{name}{end}" for name in PARAMETERS for end in ("", "_low", "_high")),
    ]
    numbers = numbers.reindex(columns=[*wanted, *MORE])
    numbers.attrs["left_out"] = [*left_out, *seen_often(table), *curve_notes(table)]
    return figure, numbers


@dataclass(frozen=True)
class FamilyFrontier:
    """One family's frontier at one data set and resolution, and how it looks."""

    name: str
    at: str
    """Data and resolution where there are several, and the cooldown of cooled points; else ""."""
    family: str
    colour: str
    dashes: Any
    marker: str
    frontier: Frontier
    cooldown: float = 0.0


def family_frontiers(known: pd.DataFrame) -> list[FamilyFrontier]:
    """Each family's: DiT last, scales in order, the last one darkest. Families of one's own differ in marker too."""
    at_scale = scales(known)
    looks = family_looks(known["family"])
    found = []
    for place, (scale, of_scale) in enumerate(at_scale):
        light = 0.5 * (1 - (place + 1) / len(at_scale))
        for family, rows in of_scale.groupby("family", sort=True):
            look = looks[str(family)]
            (made,) = frontiers_of(rows).values()
            name = f"{family_name(str(family))}{scale}"
            shade = to_hex(lighter(look.colour, light))
            at = scale.removeprefix(", ")
            cooldown = float(cooldowns(rows).iloc[0])
            found.append(FamilyFrontier(name, at, str(family), shade, look.dashes, look.markers[0], made, cooldown))
    return sorted(found, key=lambda one: (one.family == "dit", one.family))


def scale_text(value: float) -> str:
    """`3.2×10⁵`, `0.0032`, `320`: what needs no exponent has none."""
    if not 9.95e-4 <= value < 9.95e3:
        return power_text(value, digits=2)
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"


def _said(made: Frontier, law: Fit | str) -> list[str]:
    """What the picture cannot show of one frontier."""
    if isinstance(law, str):
        return [f"no law: {law}", *made.notes]
    return [note for note in (law.no_interval, *law.notes, *made.notes) if note]


def _draw_curves(axes: Axes, one: FamilyFrontier) -> None:
    made, colour = one.frontier, one.colour
    for _, points in made.curves.groupby("model"):
        thin: dict[str, Any] = {"lw": 0.5, "marker": one.marker, "markersize": 2.2, "markeredgewidth": 0}
        axes.plot(points["x"], points["y"], color=lighter(colour, 0.55), zorder=2, **thin)
    envelope, thick = made.envelope, _width(law_or_reason(made))
    changes = envelope.index.to_series().diff() != 1
    for column in ("model", "limited"):
        changes |= envelope[column] != envelope[column].shift()
    for _, part in envelope.groupby(changes.cumsum()):  # where a model's last budget ends it, it jumps: a gap
        lw = 0.7 if part["limited"].any() else thick
        axes.plot(part["x"], part["y"], color=lighter(colour, 0.25), linestyle=one.dashes, lw=lw, zorder=3)
    on = made.curves[made.curves["on_frontier"]]
    full: dict[str, Any] = {"color": colour, "marker": one.marker, "markeredgecolor": "white", **rim(one.cooldown)}
    axes.plot(on["x"], on["y"], linestyle="none", zorder=4, **full)


def _width(law: Fit | str) -> float:
    """Of an envelope."""
    return BAND if isinstance(law, Fit) and law.intervals else THICK


def _draw_law(axes: Axes, fit: Fit, one: FamilyFrontier) -> pd.DataFrame:
    law = fit.predict(np.geomspace(*fit.range, POINTS))
    axes.plot(law.x, law.y, linestyle=one.dashes, **LAW)
    drawn = pd.DataFrame({"kind": "law", "x": law.x, "y": law.y})
    if law.low is None or law.high is None:
        return drawn
    edges: dict[str, Any] = {"color": one.colour, "lw": 0.4, "zorder": 4.5}
    axes.fill_between(law.x, law.low, law.high, facecolor=one.colour, alpha=0.3, lw=0, zorder=2.5)
    for end in (law.low, law.high):
        axes.plot(law.x, end, **edges)
    return drawn.assign(low=law.low, high=law.high)


def _law_lines(name: str, law: Fit | str, reasons: bool, width: int) -> list[str]:
    """What stands in the panel of one frontier, in lines of so many letters."""
    if isinstance(law, str):
        return _evenly(f"{name}: no law: {law}" if reasons else f"{name}: no law (the CSV says why)", width)
    ends = law.intervals
    scale, alpha = scale_text(law.law.scale), f"{law.law.exponent:.3g}"
    if ends:
        scale += f" ({' to '.join(scale_text(end) for end in ends['scale'])})"
        alpha += f" ({ends_text(*ends['exponent'])})"
    lines = [f"{name}: E + A / Cᵅ, scatter {law.scatter:.1%}", f"E {offset_text(law)}", f"A {scale}", f"α {alpha}"]
    return [*lines, *_evenly(law.no_interval, width)]


def _evenly(text: str, width: int) -> list[str]:
    """As few lines as `width` letters allow, about equally long: no last word alone."""
    lines = textwrap.wrap(text, width)
    narrower = (textwrap.wrap(text, letters) for letters in range(1 + len(text) // max(1, len(lines)), width))
    return next((found for found in narrower if len(found) == len(lines)), lines)


def _write_laws(axes: Axes, texts: list[tuple[str, Fit | str]], height: float, width: float) -> None:
    """The laws above the curves, in columns; the axis is made longer upwards so that nothing is under them.

    `height` of the figure and `width` of the panel in inches.
    """
    columns = min(COLUMNS, len(texts))
    letters = int((width / columns - 0.1) / LETTER)
    blocks = [_law_lines(name, law, len(texts) <= MOST_REASONS, letters) for name, law in texts]
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    depth = [max(map(len, row)) for row in rows]
    whole = (sum(depth) + 0.6 * len(depth)) * LINE
    panel = height - 0.5 + whole  # without labels; grown below by what the texts take
    axes.figure.set_figheight(height + whole)  # type: ignore[union-attr]
    top = 0.0
    for row, lines in zip(rows, depth, strict=True):
        for place, block in enumerate(row):
            at = (0.015 + place / columns, 1 - (top + 0.3) * LINE / panel)
            text = axes.text(*at, "\n".join(block), transform=axes.transAxes, fontsize=NOTE, va="top", linespacing=1.15)
            text.set(zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # no grid through letters
        top += lines + 0.6
    low, high = axes.get_ylim()
    share = whole / panel
    axes.set_ylim(low, float(np.exp(np.log(low) + np.log(high / low) / (1 - share))))


def _legend(figure: Any, axes: Axes, handles: list[Any], texts: list[str], numbers: pd.DataFrame) -> None:
    if (numbers["limited"] == True).any():  # noqa: E712
        handles.append(Line2D([], [], color="0.4", lw=0.7))
        texts.append("limited by the trained budgets")
    off = numbers[(numbers["kind"] == "point") & (numbers["on_frontier"] == False)]  # noqa: E712
    if len(off):
        handles.append(Line2D([], [], color="0.6", lw=0.5, marker=".", markersize=4))
        texts.append("measured, not on the envelope")
    if (numbers["kind"] == "law").any():
        handles.append(Line2D([], [], color="black", lw=0.7))
        texts.append("law, where it is fitted")
    if "low" in numbers and numbers["low"].notna().any():
        handles.append(Patch(facecolor="0.8", edgecolor="0.4", lw=0.4))
        texts.append("95 % interval of the law")
    columns = legend_columns(texts, DOUBLE)
    figure.set_figheight(figure.get_figheight() + 0.15 * -(-len(texts) // columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
