"""FID against held-out loss: whether the loss, which costs little, ranks models as FID does."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from scipy.stats import spearmanr

from fcdm.analysis.data.labels import family_name, scales
from fcdm.analysis.data.seed_curves import curve_notes, seed_curves
from fcdm.analysis.figures.axes import Drawn, fid_axis, legend_below, log_axes, shortened
from fcdm.analysis.figures.styles import SINGLE, family_looks, rim, shade

LEAST_POINTS = 4
"""Of three points a rank correlation of 1 is chance in one of six cases."""
CORRELATION = "rank correlation"


def fid_against_loss(table: pd.DataFrame) -> Drawn | None:
    """FID against held-out loss at every budget (means over seeds), a line per model and setting, larger ones darker.

    The legend has Spearman's rank correlation over all points of each family: the map from loss to FID belongs to the
    family, so none is told over both. None where no evaluation has a held-out loss.
    """
    points, left_out = _points(table)
    if points.empty:
        return None
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    looks = family_looks(points["family"])
    handles, texts, rows = [], [], []
    for (family, at), of_family in points.groupby(["family", "at"], sort=False):
        look = looks[str(family)]
        labels = list(dict.fromkeys(of_family["label"]))
        for place, label in enumerate(labels):
            line = of_family[of_family["label"] == label]
            style: dict[str, Any] = {**look.line, "color": shade(look.colour, place, len(labels))}
            style |= rim(line["cooldown"].iloc[0])
            axes.plot(line["heldout_loss"], line["fid"], lw=0.8, markersize=4, **{**style, "zorder": 3})
        row = {"origin": CORRELATION, "family": family, "label": f"{family_name(str(family))}{at}"}
        name = f"{shortened(family_name(str(family)), 20)}{at}"
        if len(of_family) >= LEAST_POINTS:
            rho = float(spearmanr(of_family["heldout_loss"], of_family["fid"]).statistic)
            rows.append({**row, "correlation": rho, "points": len(of_family)})
            texts.append(f"{name}: Spearman's ρ {rho:.2f} ({len(of_family)} points)")
        else:
            texts.append(f"{name}: too few points for Spearman's ρ")
        handles.append(Line2D([], [], **{**look.line, **rim(of_family["cooldown"].iloc[0])}, lw=0.8))
    axes.set(xscale="log", yscale="log", xlabel="Held-out loss", ylabel=fid_axis(table))
    log_axes(axes)
    legend_below(figure, handles, texts, 1.95)
    columns = ["label", "origin", "family", "steps", "epochs", "heldout_loss", "fid", "seeds", "correlation", "points"]
    numbers = pd.concat([points, pd.DataFrame(rows)], ignore_index=True).reindex(columns=columns)
    numbers.attrs["left_out"] = [*left_out, *curve_notes(table)]
    return figure, numbers


def _points(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row per model, setting and budget, means over the same seeds for both; what has no held-out loss."""
    parts, left_out = [], []
    for at, rows in scales(table):
        for line in seed_curves(rows):
            loss = line.runs.groupby("steps")["heldout_loss"].agg(lambda values: values.mean(skipna=False))
            points = line.points.assign(heldout_loss=loss.reindex(line.points["steps"]).to_numpy())
            known = np.isfinite(points["heldout_loss"]) & (points["heldout_loss"] > 0)
            if not known.all():
                left_out.append(f"left out: {line.label}: {int((~known).sum())} budgets without a held-out loss")
            points = points[known].assign(
                label=line.label, family=line.family, at=at, seeds=line.seeds, cooldown=line.cooldown
            )
            parts.append(points.assign(origin="these runs"))
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()), left_out
