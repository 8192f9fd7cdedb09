"""The guidance trade-off of each model's last checkpoint that was evaluated at several scales."""

from __future__ import annotations

import json
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fcdm.analysis.figures.axes import NOTE, Drawn, fid_label, legend_columns
from fcdm.analysis.figures.published_points import LEGEND
from fcdm.analysis.figures.styles import DOUBLE, FAMILIES, MARKERS, OTHERS, SINGLE, lighter
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
    handles = [Line2D([], [], **style) for style in styles.values()]
    texts = list(styles)
    if (whole["origin"] == PUBLISHED).any():
        handles.append(Line2D([], [], color="0.35", marker="o", markerfacecolor="none", lw=0.8, linestyle=":"))
        texts.append(LEGEND)
    columns = min(legend_columns(texts, figure.get_figwidth()), 2 if len(panels) > 1 else 1)
    figure.set_figheight(2.1 + 0.15 * -(-len(texts) // columns))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    numbers = whole[["label", "origin", "steps", "guidance_scale", *METRICS, "seeds"]]
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
            left_out.append(f"left out: {label} at guidance {at}, which has no FID")
        means = means[(means["seeds"] == means["seeds"].max()) & means["fid"].notna()]
        if len(means) < 2:
            left_out.append(f"left out: {label} at {last:,} steps: fewer than two guidance scales are left")
            continue
        name = f"{label}, {steps_text(last)} steps{_told_apart(str(kind), kinds)}"
        first = rows.iloc[0]
        parts.append(means.assign(label=name, family=first["family"], steps=last, origin="these runs"))
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
    """Label -> look: the family by colour and dashes, its curves by marker and lightness."""
    styles: dict[str, dict[str, Any]] = {}
    for family, rows in own.groupby("family", sort=False):
        colour, dashes = FAMILIES.get(str(family), OTHERS[0])
        labels = list(dict.fromkeys(rows["label"]))
        for place, label in enumerate(labels):
            light = 0.45 * (1 - (place + 1) / len(labels))
            styles[label] = {"color": lighter(colour, light), "linestyle": dashes}
            styles[label] |= {"marker": MARKERS[place % len(MARKERS)], "markeredgecolor": "white"}
    return styles


def _draw(axes: Axes, rows: pd.DataFrame, x: str, y: str, style: dict[str, Any] | None) -> None:
    """One curve, its first, best and last scale written at the points."""
    rows = rows[rows[x].notna() & rows[y].notna()].sort_values("guidance_scale")
    if rows.empty:
        return
    if style is None:  # published
        colour = FAMILIES.get(str(rows["family"].iloc[0]), OTHERS[0])[0]
        style = {"color": colour, "linestyle": ":", "marker": "o", "markerfacecolor": "none", "lw": 0.8}
    axes.plot(rows[x], rows[y], **style)
    if x == "guidance_scale":
        return
    chosen = {rows.index[0], rows.index[-1], rows["fid"].idxmin()}
    for place in sorted(chosen):
        axes.annotate(
            f"{rows.loc[place, 'guidance_scale']:g}",
            (rows.loc[place, x], rows.loc[place, y]),
            (4, 4),
            textcoords="offset points",
            fontsize=NOTE,
            color="0.25",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )
