"""FID against steps, images, training FLOPs or device-hours: the figure that answers the question, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from fcdm.analysis.data.epochs import epochs_each
from fcdm.analysis.data.labels import cooled_text, data_scales, family_name, model_of
from fcdm.analysis.data.seed_curves import SeedCurve, curve_notes, seed_curves
from fcdm.analysis.figures.axes import (
    NOTE,
    Drawn,
    epochs_above,
    fid_axis,
    legend_below,
    log_axes,
    note_above,
    spread,
    step_ticks,
)
from fcdm.analysis.figures.published_points import LEGEND, named_as, unguided
from fcdm.analysis.figures.styles import SINGLE, Look, family_looks, line_styles, published_handle, rim
from fcdm.analysis.published import PUBLISHED
from fcdm.analysis.stats.model_pairs import Comparison, comparisons
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.analysis.stats.two_classifiers import NO_RESULT

FAR_BELOW = 10.0
"""A floor this many times below every FID is told in words: a line for it would flatten the curves."""
MOST_NAMED = 8
"""Of more curves than this only the best setting of each model is named, of more models only the families."""
REACHED, FLOOR = (0, (1, 1.5)), (0, (2, 2))
"""Dashes of what had been reached before, and of what real images score."""
MOST_ARROWS = 3
"""Of more asked pairs than this only the largest has an arrow."""
KEY = 5
"""Shades that stand for the sizes of a family in a legend."""

RATIO = "ratio at equal distance"
RATIO_COLUMNS = ["ratio", "ratio_at_fid", "ratio_from", "ratio_to", "unclear", "differs"]


@dataclass(frozen=True)
class TrainingAmount:
    """What is spent on training, as an axis."""

    label: str
    unit: str
    column: str
    """In the figure's numbers."""
    scale: float = 1.0
    """What a table's number is multiplied by."""


AMOUNTS = {
    "steps": TrainingAmount("Training steps", "steps", "steps"),
    "images": TrainingAmount("Training images", "images", "images"),
    "train_flops": TrainingAmount("Training compute (FLOPs)", "training FLOPs", "train_flops"),
    "device_seconds": TrainingAmount("Training time (device-hours)", "device-hours", "device_hours", 1 / 3600),
}


def fid_against(
    table: pd.DataFrame, axis: str, published: pd.DataFrame | None = None, pairs: Sequence[Comparison] | None = None
) -> Drawn | None:
    """FID against one of AMOUNTS, both in log: a line per model (mean of seeds, band from best to worst).

    The dashed grey line is the FID of real images, told in words where it is far below. The arrow is the ratio at equal
    FID of the largest pair that has a clear one; of a few `pairs` (None: an FCDM and the DiT of its size) each has one.
    `published`: points of `published()`, hollow, of the same models. None where nothing can be drawn: no finite FID,
    or runs that do not say what they cost.
    """
    amount = AMOUNTS[axis]
    curves, left_out = _drawable(table, axis)
    if not curves:
        return None
    compared = comparisons(table) if pairs is None else pairs
    named = _named(curves, compared)
    styles = line_styles([line for line in curves if line.label in named])
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    axes.set(xscale="log", yscale="log", xlabel=amount.label, ylabel=fid_axis(table))  # first: one point has limits
    looks = family_looks(line.family for line in curves)
    for line in curves:
        if line.label in named:
            _draw_line(axes, line, amount, styles[line.label])
        else:
            look = looks[line.family]
            thin: dict[str, Any] = {"alpha": 0.6, "lw": 0.6, "marker": ".", "markersize": 4, "markeredgewidth": 0}
            thin |= {"color": look.colour, "linestyle": look.dashes, **rim(line.cooldown)}
            axes.plot(line.points[amount.column], line.points["fid"], zorder=2, **thin)
    others = _draw_published(axes, published, curves, amount, left_out, styles, looks)
    handles, texts = _key([line for line in curves if line.label in named], styles)
    handles += _more_keys(curves, named, others, texts)
    _draw_floors(axes, table, curves, handles, texts)
    chosen, ratios = _ratios(compared, axis, every=pairs is not None)
    _arrows(axes, chosen, axis)
    log_axes(axes)
    if axis == "steps":
        drawn = {int(step) for line in curves for step in line.points["steps"]}
        step_ticks(axes.xaxis, sorted(drawn | set(others["steps"] if len(others) else [])))
    own = [line.points.assign(label=line.label, seeds=line.seeds, origin="these runs") for line in curves]
    if axis in ("steps", "images"):
        epochs_above(axes, epochs_each(pd.concat([*own, others]), axis))
    several = len(data_scales(table)) > 1
    note_above(axes, [line for one in chosen for line in _words(one, axis, several)], SINGLE - 0.15)
    legend_below(figure, handles, texts, 1.95)
    numbers = pd.concat([*own, others, pd.DataFrame(ratios)], ignore_index=True)
    columns = ["label", "origin", "seeds", amount.column, "epochs", "fid", "fid_min", "fid_max", *RATIO_COLUMNS]
    numbers = numbers.reindex(columns=columns)
    numbers.attrs["left_out"] = [*left_out, *curve_notes(table)]
    return figure, numbers


def _drawable(table: pd.DataFrame, axis: str) -> tuple[list[SeedCurve], list[str]]:
    """The lines that have a place on a log axis, with the amount in its own unit, and which have none."""
    amount = AMOUNTS[axis]
    curves, left_out = [], []
    for whole in seed_curves(table):
        line, below = whole.for_log_axes()
        left_out += below
        if line.points.empty:
            continue
        spent = line.points[axis] * amount.scale
        if (spent > 0).all():
            curves.append(replace(line, points=line.points.assign(**{amount.column: spent})))
        else:
            left_out.append(f"left out: {line.label}: a log axis has no place for {axis} of 0 or unknown")
    return curves, left_out


def _named(curves: list[SeedCurve], pairs: Sequence[Comparison]) -> set[str]:
    """The labels of the curves that are drawn in full: all of a few, else the best setting of each model."""
    if len(curves) <= MOST_NAMED:
        return {line.label for line in curves}
    named = {line.label for pair in pairs for line in (pair.a, pair.b)}
    compared = {line.name for pair in pairs for line in (pair.a, pair.b)}
    best: dict[tuple[str, float], SeedCurve] = {}
    for line in curves:
        if line.name not in compared:
            known = best.setdefault((line.name, line.cooldown), line)
            if line.points["fid"].min() < known.points["fid"].min():
                best[line.name, line.cooldown] = line
    return named | {line.label for line in best.values()}


def _draw_line(axes: Axes, line: SeedCurve, amount: TrainingAmount, style: dict[str, Any]) -> None:
    points = line.points
    axes.plot(points[amount.column], points["fid"], zorder=3, **style)
    if line.seeds > 1:
        low, high = points["fid_min"], points["fid_max"]
        axes.fill_between(points[amount.column], low, high, color=style["color"], alpha=0.2, lw=0)
    lowest = points["fid"].cummin()
    if (points["fid"] > lowest).any():  # what had been reached counts for the ratio: its ends lie on this line
        axes.plot(points[amount.column], lowest, color=style["color"], linestyle=REACHED, lw=0.8, zorder=3)


def _draw_published(
    axes: Axes,
    published: pd.DataFrame | None,
    curves: list[SeedCurve],
    amount: TrainingAmount,
    left_out: list[str],
    styles: dict[str, dict[str, Any]],
    looks: dict[str, Look],
) -> pd.DataFrame:
    """Hollow points of the models that are drawn, in their markers, joined where one source measured them alike."""
    if published is None or published.empty or amount.column not in published:
        return pd.DataFrame()
    points = named_as(unguided(published, left_out), {line.name for line in curves}, left_out)
    points = points[points["fid"].notna()]
    as_theirs = sorted(curves, key=lambda line: -line.cooldown)  # of a rate that goes on, where it is there
    markers = {line.name: styles[line.label]["marker"] for line in as_theirs if line.label in styles}
    for (model, family, series, _), rows in points.groupby(["model", "family", "series", "resolution"]):
        look = looks[str(family)].hollow
        look |= {"marker": markers.get(str(model), look["marker"])} | ({} if series else {"linestyle": "none"})
        ordered = rows.sort_values(amount.column)
        axes.plot(ordered[amount.column], ordered["fid"], zorder=4, **look)
    return points.assign(origin=PUBLISHED)


def _key(named: list[SeedCurve], styles: dict[str, dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """A legend's handles and texts: each curve, or of many the shades of each family with its smallest and largest."""
    if len(named) <= MOST_NAMED:
        return [Line2D([], [], **styles[line.label]) for line in named], [line.label for line in named]
    handles: list[Any] = []
    texts = []
    for family, share in dict.fromkeys((line.family, line.cooldown) for line in named):
        members = [line for line in named if (line.family, line.cooldown) == (family, share)]  # in order of their size
        whole = f"{family_name(family)}{cooled_text(share)}"
        shades = spread(list(range(len(members))), KEY)
        handles.append(tuple(Line2D([], [], **styles[members[place].label]) for place in shades))
        names = [members[0].name, members[-1].name]
        texts.append(f"{whole}: {len(members)} models, {names[0]} (light) to {names[1]} (dark)")
    return handles, texts


def _more_keys(curves: list[SeedCurve], named: set[str], others: pd.DataFrame, texts: list[str]) -> list[Any]:
    """Handles of what else is drawn; their words are added to `texts`."""
    handles: list[Any] = []
    if any(line.seeds > 1 for line in curves if line.label in named):
        handles.append(Patch(color="0.82", lw=0))
        texts.append("best to worst seed")
    if any((line.points["fid"] > line.points["fid"].cummin()).any() for line in curves if line.label in named):
        handles.append(Line2D([], [], color="0.35", linestyle=REACHED, lw=0.8))
        texts.append("reached before")
    if len(named) < len(curves):
        handles.append(Line2D([], [], color="0.5", lw=0.6, marker=".", markersize=3))
        texts.append(f"{len(curves) - len(named)} other settings")
    if len(others):
        handles.append(published_handle())
        texts.append(LEGEND)
    return handles


def _draw_floors(
    axes: Axes, table: pd.DataFrame, curves: list[SeedCurve], handles: list[Any], texts: list[str]
) -> None:
    """What real images score at each data set and resolution: a line, or words alone where it lies far below.

    Told in the legend, where no curve can run through the words.
    """
    lowest = min(line.points["fid"].min() for line in curves)
    at: dict[float, str] = {}
    for scale, rows in data_scales(table):
        floor = float(rows["floor"].median())
        at[floor] = at.get(floor, "") + scale
    for floor, where in at.items():
        if not (np.isfinite(floor) and floor > 0):
            continue
        note = f"real images{where}: {floor:.3g}"
        if floor * FAR_BELOW < lowest:
            handles.append(Line2D([], [], linestyle="none"))
            texts.append(f"{note} (below the axis)")
            continue
        low, high = axes.get_ylim()
        axes.axhline(floor, color="0.35", linestyle=FLOOR, linewidth=0.9, zorder=1)
        axes.set_ylim(min(low, floor * 0.8), max(high, floor * 1.25))
        handles.append(Line2D([], [], color="0.35", linestyle=FLOOR, linewidth=0.9))
        texts.append(note)


def _ratio(one: Comparison, axis: str) -> RatioRange | str:
    ratios = {"steps": one.steps, "images": one.images, "train_flops": one.flops, "device_seconds": one.seconds}
    return ratios[axis]


def _ratios(pairs: Sequence[Comparison], axis: str, every: bool) -> tuple[list[Comparison], list[dict[str, object]]]:
    """(The pairs that the figure tells of, rows of the ratios of all.)

    Told of are up to MOST_ARROWS where `every`, else the largest that has a clear ratio, or the largest there is; of
    rates that go on where there are such.
    """
    rows: list[dict[str, object]] = []
    clear = []
    for one in pairs:
        found = _ratio(one, axis)
        if isinstance(found, str):
            continue
        scale = AMOUNTS[axis].scale
        row = {"label": f"{one.a.label} against {one.b.label}", "origin": RATIO, "ratio": found.ratio}
        row |= {"ratio_at_fid": found.target, "ratio_from": found.steps_b * scale, "ratio_to": found.steps_a * scale}
        rows.append({**row, "unclear": found.unclear or "", "differs": "; ".join(one.differs)})
        if not found.unclear:
            clear.append(one)
    plain = [one for one in clear if not one.a.cooldown and not one.b.cooldown]
    return list(pairs) if every and len(pairs) <= MOST_ARROWS else (plain or clear or list(pairs))[-1:], rows


def _arrows(axes: Axes, pairs: Sequence[Comparison], axis: str) -> None:
    """From the slower model's curve to the faster one's at the headline FID; several are labelled with their ratios."""
    style = {"arrowstyle": "-|>", "color": "0.15", "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    found = [(one, _ratio(one, axis)) for one in pairs]
    clear = [ratio for _, ratio in found if isinstance(ratio, RatioRange) and not ratio.unclear]
    scale = AMOUNTS[axis].scale
    for place, ratio in enumerate(clear):
        fast, slow = (end * scale for end in sorted((ratio.steps_a, ratio.steps_b)))
        axes.annotate("", (fast, ratio.target), (slow, ratio.target), arrowprops=style, zorder=4)
        if len(clear) > 1:
            below = place % 2 == 1  # ratios of two pairs are often at one FID
            look: dict[str, Any] = {"fontsize": NOTE, "ha": "center", "textcoords": "offset points"}
            look["va"] = "top" if below else "bottom"
            look["path_effects"] = [withStroke(linewidth=2, foreground="white")]
            times = f"{max(ratio.ratio, 1 / ratio.ratio):.1f}×"
            axes.annotate(times, (float(np.sqrt(fast * slow)), ratio.target), (0, -2 if below else 1), zorder=5, **look)


def _words(one: Comparison, axis: str, several: bool) -> list[str]:
    """The ratio of a pair, and what differs besides the models, a line each; what the command says, in short."""
    ratio = _ratio(one, axis)
    a, b = (one.a.name, one.b.name) if one.a.name != one.b.name else (one.a.label, one.b.label)  # of settings
    if one.a.cooldown or one.b.cooldown:
        a, b = model_of(one.a.label), model_of(one.b.label)
    names = f"{a} against {b}{f', {one.a.resolution} px' if several else ''}"
    lines = []
    if isinstance(ratio, RatioRange) and ratio.unclear:
        lines = [f"{names}: no clear ratio"]
    elif isinstance(ratio, RatioRange):
        more_or_less = "fewer" if ratio.ratio >= 1 else "more"
        times = max(ratio.ratio, 1 / ratio.ratio)
        lines = [f"{times:.1f}× {more_or_less} {AMOUNTS[axis].unit} to {one.a.distance} {ratio.target:.3g}", names]
    elif isinstance(ratio, str) and ratio.startswith(NO_RESULT):
        lines = [f"{names}: the two classifiers disagree"]
    elif one.differs:
        lines = [names]
    return [*lines, *one.differs]
