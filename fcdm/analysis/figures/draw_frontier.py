"""The compute frontier of each family: the best FID at each training compute, its law, and how sure that is."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.data.labels import display_name, scales
from fcdm.analysis.data.seed_curves import dropped
from fcdm.analysis.figures.axes import NOTE, Drawn, fid_label, legend_columns, log_axes
from fcdm.analysis.figures.styles import FAMILIES, OTHERS, SINGLE, lighter, marker_of
from fcdm.analysis.stats.frontier import mean_curves
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import fits_table, frontiers_of

POINTS = 60
PARAMETERS = ("offset", "scale", "exponent")
MORE = ("level", "from", "to", "points", "rms_residual", "notes")
MISSED = 0.2
"""A point this far off its law is named: the law does not describe it."""


def frontier_figure(table: pd.DataFrame) -> Drawn | None:
    """Every model's mean curve thin, the points on the frontier full, the law and its band as far as was measured.

    A frontier for each family at each data set and resolution. The numbers hold the law itself too, in rows of the kind
    `law_parameters`, and lines that name the points it misses. Where there are too few points for a law or too few
    seeds for a band, the legend and the CSV say so. None where no run says what it costs.
    """
    known = table[np.isfinite(table["fid"]) & (table["fid"] > 0) & (table["train_flops"] > 0)]
    if known.empty:
        return None
    left_out, parts, texts = [], [], []
    handles: list[Line2D | Patch] = []
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    parameters = []
    at_scale = [scale for scale, _ in scales(known)]
    families = [
        (scale, of_scale, *item) for scale, of_scale in scales(known) for item in frontiers_of(of_scale).items()
    ]
    for scale, of_scale, family, law in sorted(families, key=lambda one: (one[2] == "dit", one[2])):  # scales in order
        colour, dashes = FAMILIES.get(family, OTHERS[0])
        colour = to_hex(lighter(colour, 0.5 * (1 - (at_scale.index(scale) + 1) / len(at_scale))))
        name = f"{display_name('', family).rstrip('-')}{scale}"
        at = scale.removeprefix(", ")
        fit, curves = (None, _curves(of_scale, family)) if isinstance(law, str) else law
        parts.append(curves.assign(kind="point", family=family, at=at))
        _draw_curves(axes, curves, colour, marker_of(family))
        handles.append(Line2D([], [], color=colour, linestyle=dashes, marker=marker_of(family)))
        if fit is None:
            left_out.append(f"left out: the law of {name}'s frontier: {law}")
            texts.append(f"{name}: too few points for a law")
            continue
        parts.append(_draw_law(axes, fit, colour, dashes).assign(family=family, at=at))
        parameters.append({"kind": "law_parameters", "family": family, "at": at, **_parameters(fit)})
        offset = f"{fit.law.offset:.3g} + " if fit.law.offset else ""
        scatter = f"scatter {np.sqrt(np.mean(fit.residuals**2)):.0%}"
        texts.append(f"{name}: {offset}A / C^{fit.law.exponent:.2f}, {scatter}")
        left_out += [
            f"{name}'s frontier: {note}" for note in (*fit.notes, fit.no_interval, *_missed(fit, curves)) if note
        ]
    axes.set(xscale="log", yscale="log", xlabel="Training compute C (FLOPs)", ylabel=fid_label(table))
    axes.autoscale_view()
    log_axes(axes)
    numbers = pd.concat([*parts, pd.DataFrame(parameters)], ignore_index=True)
    if "low" in numbers and numbers["low"].notna().any():
        handles.append(Patch(color="0.8", lw=0))
        texts.append("95 % interval")
    elif (numbers["kind"] == "law").any():
        axes.set_title("no interval: fewer than 3 seeds", fontsize=NOTE, loc="right")
    columns = min(2, legend_columns(texts, SINGLE))
    figure.set_figheight(2.2 + 0.15 * -(-len(texts) // columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    numbers = numbers.rename(columns={"x": "train_flops", "y": "fid", "model": "label"})
    wanted = ["kind", "family", "at", "label", "train_flops", "fid", "low", "high", "runs", "on_frontier"]
    wanted += [f"{name}{end}" for name in PARAMETERS for end in ("", "_low", "_high")]
    numbers = numbers.reindex(columns=[*wanted, *MORE])
    numbers.attrs["left_out"] = [*left_out, *dropped(table)]
    return figure, numbers


def _parameters(fit: Fit) -> dict[str, object]:
    """E, A and alpha with their intervals, the range, the points, the scatter: a row as in the table of all laws."""
    row = fits_table({"": fit}).iloc[0]
    return {key: value for key, value in row.items() if key != "label"}  # type: ignore[misc]


def _missed(fit: Fit, curves: pd.DataFrame) -> list[str]:
    """How many points on the frontier lie further than MISSED off the law, and the worst of them, in words."""
    on = curves[curves["on_frontier"]]
    law = fit.law(on["x"])
    off = (on["y"] / law - 1).abs().to_numpy()
    if not (off > MISSED).any():
        return []
    worst = on.iloc[int(off.argmax())]
    of_law = float(law[int(off.argmax())])
    return [
        f"the law misses {(off > MISSED).sum()} of {len(on)} points by more than {MISSED:.0%}, most of all "
        f"{worst['model']} at {worst['x']:.3g} FLOPs: FID {worst['y']:.3g}, by the law {of_law:.3g}"
    ]


def _curves(known: pd.DataFrame, family: str) -> pd.DataFrame:
    """The mean curves of a family that has no law."""
    rows = known[known["family"] == family]
    return mean_curves(rows["train_flops"], rows["fid"], list(rows["run"]), list(rows["label"]))


def _draw_curves(axes: Axes, curves: pd.DataFrame, colour: str, marker: str) -> None:
    for _, points in curves.groupby("model"):
        thin: dict[str, Any] = {"lw": 0.6, "marker": ".", "markersize": 3, "markeredgewidth": 0}
        axes.plot(points["x"], points["y"], color=lighter(colour, 0.6), zorder=2, **thin)
    on = curves[curves["on_frontier"]]
    axes.plot(on["x"], on["y"], linestyle="none", color=colour, marker=marker, markeredgecolor="white", zorder=4)


def _draw_law(axes: Axes, fit: Fit, colour: str, dashes: Any) -> pd.DataFrame:
    law = fit.predict(np.geomspace(*fit.range, POINTS))
    axes.plot(law.x, law.y, color=colour, linestyle=dashes, zorder=3)
    drawn = pd.DataFrame({"kind": "law", "x": law.x, "y": law.y})
    if law.low is None or law.high is None:
        return drawn
    axes.fill_between(law.x, law.low, law.high, color=colour, alpha=0.2, lw=0)
    return drawn.assign(low=law.low, high=law.high)
