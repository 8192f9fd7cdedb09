"""The guidance trade-off of each model's last checkpoint that was evaluated at several scales."""

from __future__ import annotations

import json
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.figures.axes import Drawn, fid_label, legend_below, log_axis
from fcdm.analysis.figures.point_names import name_points
from fcdm.analysis.figures.published_points import LEGEND
from fcdm.analysis.figures.styles import DOUBLE, SINGLE, family_looks, published_handle, shade
from fcdm.analysis.published import PUBLISHED
from fcdm.formatting import steps_text

METRICS = ("fid", "inception_score", "precision", "recall")


def guidance_figure(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Drawn | None:
    """FID against Inception Score and precision against recall, a line along the guidance scales (means over seeds).

    `table`: of `guidance_table`. Without Inception Scores FID stands against the scale; without precision and recall
    there is one panel. None where no checkpoint was evaluated at two scales.
    """
    if table.empty:
        return None
    left_out: list[str] = []
    own = _curves(table, left_out)
    if own.empty:
        return None
    whole = pd.concat([own, _published(published, left_out)], ignore_index=True)
    scored = whole.loc[whole["origin"] != PUBLISHED, "inception_score"].notna().any()
    panels = [("inception_score", "fid") if scored else ("guidance_scale", "fid")]
    if own[["precision", "recall"]].notna().all(axis=1).any():
        panels.append(("recall", "precision"))
    names = {"inception_score": "Inception Score", "guidance_scale": "Guidance scale", "fid": fid_label(table)}
    names |= {"recall": "Recall", "precision": "Precision"}
    figure, axes = plt.subplots(1, len(panels), figsize=(DOUBLE if len(panels) > 1 else SINGLE, 2.0), squeeze=False)
    styles = _styles(own)
    for place, (x, y) in enumerate(panels):
        for (_, label), rows in whole.groupby(["origin", "label"], sort=False):
            _draw(axes[0, place], rows, x, y, styles.get(str(label)))
        axes[0, place].set(xlabel=names[x], ylabel=names[y])
        axes[0, place].margins(0.12)
        if y == "fid":
            axes[0, place].set_yscale("log")
            axes[0, place].autoscale_view()
            log_axis(axes[0, place].yaxis, 6)
    handles = [Line2D([], [], **style) for style in styles.values()]
    texts = list(styles)
    if (whole["origin"] == PUBLISHED).any():
        handles.append(published_handle())
        texts.append(LEGEND)
    legend_below(figure, handles, texts, 2.0, most=2 if len(panels) > 1 else 1)
    figure.draw_without_rendering()  # the layout, which the scales are placed in
    for place, (x, y) in enumerate(panels):
        if x != "guidance_scale":
            name_points(axes[0, place], _scales(whole, x, y), x, y)
    numbers = whole[["label", "origin", "steps", "epochs", "guidance_scale", *METRICS, "seeds"]]
    numbers.attrs["left_out"] = left_out
    return figure, numbers


def _curves(table: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """Means over seeds at each model's last step that all its seeds were evaluated at several scales at."""
    parts = []
    kinds = sorted(set(table["kind"]))
    for (label, kind), rows in table.groupby(["label", "kind"]):
        last = rows["steps"].max()
        for step in sorted(set(rows["steps"]) - {last}):
            left_out.append(f"left out: {label} at {step:,} steps: {last:,} are drawn")
        rows = rows[rows["steps"] == last]
        means = rows.groupby("guidance_scale", as_index=False).agg(
            **{name: (name, "mean") for name in METRICS}, seeds=("seed", "nunique")
        )
        short = means[means["seeds"] < means["seeds"].max()]
        if len(short):
            at = ", ".join(f"{scale:g}" for scale in short["guidance_scale"])
            left_out.append(f"left out: {label} at guidance {at}, which not every seed was evaluated at")
        if means["fid"].isna().any():
            at = ", ".join(f"{scale:g}" for scale in means.loc[means["fid"].isna(), "guidance_scale"])
            left_out.append(f"left out: {label} at guidance {at}, which has no {distance_of(table)}")
        means = means[(means["seeds"] == means["seeds"].max()) & means["fid"].notna()]
        if len(means) < 2:
            left_out.append(f"left out: {label} at {last:,} steps: fewer than two guidance scales are left")
            continue
        name = f"{label}, {steps_text(last)} steps{_told_apart(str(kind), kinds)}"
        first = rows.iloc[0]
        parts.append(
            means.assign(label=name, family=first["family"], steps=last, epochs=first["epochs"], origin="these runs")
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _told_apart(kind: str, kinds: list[str]) -> str:
    """What sets this kind of protocol apart, where there are several."""
    if len(kinds) < 2:
        return ""
    known = [json.loads(one) for one in kinds]
    own: dict[str, Any] = json.loads(kind)
    keys = sorted({key for one in known for key in one})
    different = [key for key in keys if len({str(one.get(key)) for one in known}) > 1]
    return "".join(f", {key.removeprefix('guidance_')} {own.get(key, 'all')}" for key in different)


def _published(published: pd.DataFrame | None, left_out: list[str]) -> pd.DataFrame:
    """Published models at two known scales at least, of one budget."""
    if published is None or published.empty:
        return pd.DataFrame()
    known = published[published["guidance_scale"].notna() & published["fid"].notna()]
    key = ["model", "resolution", "steps"]
    several = known.groupby(key)["guidance_scale"].transform("nunique") >= 2
    several &= known["inception_score"].notna()
    left_out.append(f"left out: {len(published) - int(several.sum())} published points of one scale, or an unknown one")
    kept = known[several]
    names = [f"{model}, {steps_text(steps)} steps" for model, steps in zip(kept["model"], kept["steps"], strict=True)]
    return kept.assign(label=names, origin=PUBLISHED)


def _styles(own: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Label -> look: the family by colour, dashes and markers, its curves by shade and marker."""
    styles: dict[str, dict[str, Any]] = {}
    looks = family_looks(own["family"])
    for family, rows in own.groupby("family", sort=False):
        look = looks[str(family)]
        labels = list(dict.fromkeys(rows["label"]))
        for place, label in enumerate(labels):
            marker = look.markers[place % len(look.markers)]
            styles[label] = {**look.line, "color": shade(look.colour, place, len(labels)), "marker": marker}
    return styles


def _draw(axes: Axes, rows: pd.DataFrame, x: str, y: str, style: dict[str, Any] | None) -> None:
    """One curve."""
    rows = rows[rows[x].notna() & rows[y].notna()].sort_values("guidance_scale")
    if rows.empty:
        return
    if style is None:  # published
        family = str(rows["family"].iloc[0])
        style = family_looks([family])[family].hollow
    axes.plot(rows[x], rows[y], **style)


def _scales(whole: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The first, the best and the last scale of each curve, to be written at their points."""
    parts = []
    for _, rows in whole.groupby(["origin", "label"], sort=False):
        known = rows[rows[x].notna() & rows[y].notna()].sort_values("guidance_scale")
        if len(known):
            parts.append(known.loc[sorted({known.index[0], known.index[-1], known["fid"].idxmin()})])
    chosen = pd.concat(parts)
    return chosen.assign(text=[f"{scale:g}" for scale in chosen["guidance_scale"]], colour="0.25")
