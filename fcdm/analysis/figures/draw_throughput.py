"""Throughput against a model's size: training as it was measured here, and what a paper tells of its inference.

Two panels, for the two are not the same thing: never one axis.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fcdm.analysis.data.labels import data_scales, display_name, family_name
from fcdm.analysis.figures.axes import Drawn, legend_below, log_axes, note_above
from fcdm.analysis.figures.model_size import size_name
from fcdm.analysis.figures.point_names import ends_of_many, name_points
from fcdm.analysis.figures.styles import (
    DOUBLE,
    FAMILIES,
    SINGLE,
    family_looks,
    family_of,
    published_handle,
)
from fcdm.analysis.published import PUBLISHED

TRAINING, INFERENCE = "training", "inference"
"""The two panels, in the column `panel`."""
UNDISCLOSED = "published inference: device, batch and precision undisclosed"
IMPLIED = "beside names: TFLOP/s that this implies"
CAUTION = (
    "the published throughputs are of inference, and device, batch size and precision are not disclosed: torch by "
    "default computes convolutions in TF32 and matrix products not, so their ratios may compare two precisions"
)


def throughput_figure(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Drawn | None:
    """Images per second against the forward pass's GMACs: measured training, and beside it the papers' inference.

    At the published points stands what they imply, in TFLOP/s of forward passes. None where nothing was measured.
    """
    own, left_out = _own(table)
    if own.empty:
        return None
    others = _published(published, left_out)
    figure, panels = plt.subplots(
        1, 2 if len(others) else 1, figsize=(DOUBLE if len(others) else SINGLE, 2.2), squeeze=False
    )
    looks = family_looks([*own["family"], *others["family"]])
    for (family, _), rows in own.groupby(["family", "at"]):
        panels[0, 0].plot(rows["forward_gmacs"], rows["images_per_s"], **looks[str(family)].line, lw=0.9)
    _finish(panels[0, 0], "Training (images/s)")
    if len(others):
        axes = panels[0, 1]
        for family, rows in others.groupby("family"):
            axes.plot(rows["forward_gmacs"], rows["images_per_s"], **{**looks[str(family)].hollow, "linestyle": "none"})
        _finish(axes, "Inference (images/s)")
        note_above(axes, [UNDISCLOSED, IMPLIED], SINGLE - 0.15)
        left_out.append(CAUTION)
    families = {family: family_name(family) for family in sorted(set(own["family"]), reverse=True)}
    families |= {row.family: str(row.name).partition("-")[0] for row in others.itertuples(index=False)}
    handles = [Line2D([], [], **looks[family].line, lw=0.9) for family in families]
    texts = list(families.values())
    if len(others):
        handles.append(published_handle())
        texts.append(PUBLISHED)
    legend_below(figure, handles, texts, 2.1, most=4 + len(others))
    figure.draw_without_rendering()  # the layout, which the names are placed in
    for axes, rows in zip(panels[0], (own, others), strict=False):
        colours = [looks[family].colour for family in rows["family"]]
        words = [size_name(name) for name in rows["name"]]
        if rows is others:
            words = [
                f"{size_name(name) if family_of(name) in FAMILIES else name}: {implied:.1f}"
                for name, implied in zip(rows["name"], rows["implied_tflop_per_s"], strict=True)
            ]
        named = rows.assign(text=words, colour=colours)
        if rows is own:
            named = ends_of_many(named, "forward_gmacs")
        unnamed = name_points(axes, named, "forward_gmacs", "images_per_s", leaders=True)
        if unnamed:
            left_out.append(f"without a name in the panel of {rows['panel'].iloc[0]}: {', '.join(unnamed)}")
    numbers = pd.concat([own, others], ignore_index=True)
    columns = ["panel", "origin", "name", "family", "forward_gmacs", "images_per_s", "implied_tflop_per_s", "device"]
    numbers = numbers.reindex(columns=columns)
    numbers.attrs["left_out"] = left_out
    return figure, numbers


def _own(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Median images/s of each model in training, and what was not measured or cannot be compared."""
    timed = table[(table["images_per_s"] > 0) & (table["forward_gmacs"] > 0)]
    parts = [rows.assign(at=scale) for scale, rows in data_scales(timed)] if len(timed) else []
    if not parts:
        return pd.DataFrame(), []
    timed = pd.concat(parts)
    names = zip(timed["model"], timed["family"], timed["at"], strict=True)
    timed = timed.assign(name=[f"{display_name(model, family)}{at}" for model, family, at in names])
    own = timed.groupby(["name", "family", "at", "forward_gmacs"], as_index=False).agg(
        images_per_s=("images_per_s", "median"), device=("device", lambda names: ", ".join(sorted(set(names))))
    )
    own = own.sort_values("forward_gmacs").assign(panel=TRAINING, origin="these runs")
    left_out = []
    untimed = table.loc[~table["run"].isin(timed["run"]), ["model", "family"]].drop_duplicates()
    lacking = sorted(display_name(*names) for names in zip(untimed["model"], untimed["family"], strict=True))
    if lacking:
        left_out.append(f"left out: throughput of {', '.join(lacking)}: not measured")
    devices = sorted(set(own["device"]))
    if len(devices) > 1:
        left_out.append(f"throughputs are of several devices, not to be compared: {'; '.join(devices)}")
    return own, left_out


def _published(published: pd.DataFrame | None, left_out: list[str]) -> pd.DataFrame:
    """The published throughputs, each model once, with the TFLOP/s of forward passes that they imply."""
    columns = ["panel", "origin", "name", "family", "forward_gmacs", "images_per_s", "implied_tflop_per_s"]
    if published is None or published.empty:
        return pd.DataFrame(columns=columns)
    timed = published[published["images_per_s"].notna()].drop_duplicates(["model", "resolution"])
    unknown = timed["forward_gmacs"].isna()
    if unknown.any():
        left_out.append(f"left out: published throughput of {', '.join(timed.loc[unknown, 'model'])}: GMACs unknown")
    timed = timed[~unknown]
    several = timed["resolution"].nunique() > 1
    names = timed["model"] + (", " + timed["resolution"].astype(str) + " px" if several else "")
    return timed.assign(panel=INFERENCE, origin=PUBLISHED, name=names)[columns]


def _finish(axes: Axes, label: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel=label)
    axes.margins(x=0.3, y=0.2)
    axes.autoscale_view()
    log_axes(axes, 4, 6)
