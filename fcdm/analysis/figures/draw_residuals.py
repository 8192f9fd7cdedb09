"""The residuals of each family's fit over log compute: is what the law misses noise, or has it a shape?"""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.figures.axes import NOTE, Drawn, legend_columns, log_axis
from fcdm.analysis.figures.draw_frontier import FamilyFrontier, family_frontiers
from fcdm.analysis.figures.styles import DOUBLE, MARKERS, SINGLE, lighter
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import fits_of
from fcdm.analysis.stats.told_law import UNKNOWN_NOISE

WIDE = 2.0
"""Half of the noise band, in standard errors."""


def residuals_figure(table: pd.DataFrame) -> Drawn | None:
    """A panel for each family: measured over law - 1, in per cent, and the band that noise alone would fill.

    Of the frontier's fit where there is one, else of each model's own; also of those that tell no law, for here it is
    seen why. None where nothing could be fitted.
    """
    known = table[np.isfinite(table["fid"]) & (table["fid"] > 0) & (table["train_flops"] > 0)]
    panels = [] if known.empty else [(one, _numbers(one, known)) for one in family_frontiers(known)]
    panels = [(one, residuals) for one, residuals in panels if len(residuals)]
    if not panels:
        return None
    figure, grid = plt.subplots(
        1, len(panels), figsize=(SINGLE if len(panels) == 1 else DOUBLE, 2.2), sharey=True, squeeze=False
    )
    parts, left_out = [], []
    for axes, (one, residuals) in zip(grid[0], panels, strict=True):
        parts.append(residuals)
        _draw(axes, residuals, one)
        axes.set_title(_title(one.name, residuals, 34 if len(panels) <= 2 else 22), fontsize=NOTE, loc="left")
        axes.set(xscale="log", xlabel="Training compute C (FLOPs)" if len(panels) <= 2 else "C (FLOPs)")
        log_axis(axes.xaxis, 4 if len(panels) <= 2 else 2)
        left_out += [f"{one.name}, {label}: no law: {why}" for label, why in _untold(residuals)]
    grid[0][0].set_ylabel("Measured / law - 1 (%)")
    numbers = pd.concat(parts, ignore_index=True)
    _legend(figure, numbers)
    numbers.attrs["left_out"] = [*left_out, *seen_often(table)]
    return figure, numbers


def _numbers(one: FamilyFrontier, known: pd.DataFrame) -> pd.DataFrame:
    """The residuals of one family; empty where nothing could be fitted."""
    made, parts = one.frontier, []
    if isinstance(made.law, Fit):
        on = made.curves[made.curves["on_frontier"]]
        inside = on[on["x"].between(made.law.range[0] * (1 - 1e-9), made.law.range[1] * (1 + 1e-9))]
        parts.append(_residuals(made.law, inside["x"], inside["y"], inside["model"], "frontier"))
        parts.append(_residuals(made.law, made.law.x, made.law.y, "envelope", "envelope"))
    else:
        rows = known[(known["family"] == one.family) & known["label"].isin(set(made.curves["model"]))]
        for label, fit in fits_of(rows).items():
            if isinstance(fit, Fit):
                parts.append(_residuals(fit, fit.x, fit.y, label, "model"))
    return pd.concat(parts, ignore_index=True).assign(family=one.family, at=one.at) if parts else pd.DataFrame()


def _residuals(fit: Fit, x: object, y: object, label: object, kind: str) -> pd.DataFrame:
    frame = pd.DataFrame({"kind": kind, "label": label, "train_flops": x, "fid": y})
    frame["law"] = fit.law(frame["train_flops"])
    frame["residual_percent"] = 100 * (frame["fid"] / frame["law"] - 1)
    return frame.assign(noise_percent=100 * fit.noise, scatter_percent=100 * fit.scatter, no_law=fit.no_law)


def _draw(axes: Axes, residuals: pd.DataFrame, one: FamilyFrontier) -> None:
    noise = residuals["noise_percent"].max()
    half = WIDE * (noise if np.isfinite(noise) else 100 * UNKNOWN_NOISE)
    axes.axhspan(-half, half, color="0.9", lw=0, zorder=1)
    axes.axhline(0, color="0.3", lw=0.6, zorder=2)
    line, on = (residuals[residuals["kind"] == kind] for kind in ("envelope", "frontier"))
    axes.plot(
        line["train_flops"], line["residual_percent"], color=lighter(one.colour, 0.3), lw=1.0, linestyle=one.dashes
    )
    axes.plot(
        on["train_flops"], on["residual_percent"], color=one.colour, marker=one.marker, linestyle="none", zorder=4
    )
    for place, (_, own) in enumerate(residuals[residuals["kind"] == "model"].groupby("label", sort=True)):
        look: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markeredgecolor": "white", "lw": 0.6}
        axes.plot(own["train_flops"], own["residual_percent"], color=one.colour, linestyle=one.dashes, **look)


def _title(name: str, residuals: pd.DataFrame, width: int) -> str:
    if (residuals["kind"] == "model").any():
        return "\n".join(textwrap.wrap(f"{name}: each model's own fit", width))
    first = residuals.iloc[0]
    law = f"no law: {first['no_law']}" if first["no_law"] else f"scatter {first['scatter_percent']:.1f} %"
    return "\n".join(textwrap.wrap(f"{name}'s frontier: {law}", width))


def _untold(residuals: pd.DataFrame) -> list[tuple[str, str]]:
    """(whose, why) of each fit that tells no law."""
    untold = residuals[(residuals["no_law"] != "") & (residuals["kind"] != "frontier")]
    return [(str(row["label"]), str(row["no_law"])) for _, row in untold.drop_duplicates("label").iterrows()]


def _legend(figure: Figure, numbers: pd.DataFrame) -> None:
    seeds = numbers["noise_percent"].notna()
    of = "± 2 standard errors of a mean by its seeds" if seeds.all() else "± 2 %: no seeds, 1 % of noise assumed"
    if seeds.any() and not seeds.all():
        of = "± 2 standard errors by the seeds; without seeds, of 1 %"
    handles: list[Patch | Line2D] = [Patch(color="0.9", lw=0)]
    texts = [of]
    if (numbers["kind"] == "envelope").any():
        handles += [Line2D([], [], color="0.4", lw=1.0), Line2D([], [], color="0.4", marker="o", linestyle="none")]
        texts += ["the frontier's envelope", "measured points on it"]
    for label, place in _models(numbers):
        handles.append(Line2D([], [], color="0.4", lw=0.6, marker=MARKERS[place % len(MARKERS)]))
        texts.append(label)
    columns = legend_columns(texts, figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 0.15 * -(-len(texts) // columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)


def _models(numbers: pd.DataFrame) -> list[tuple[str, int]]:
    """(label, place of its marker) of the models that have fits of their own; none where they are many."""
    of = numbers[numbers["kind"] == "model"]
    found = [
        (str(label), place)
        for _, rows in of.groupby(["family", "at"], sort=False)
        for place, label in enumerate(sorted(rows["label"].unique()))
    ]
    return found if len(found) <= len(MARKERS) else []
