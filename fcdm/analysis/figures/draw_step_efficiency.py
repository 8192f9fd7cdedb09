"""Step efficiency drawn: two curves with the ratio at equal FID, and that ratio over all FIDs that both reach."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fcdm.analysis.figures.axes import log_ticks
from fcdm.analysis.figures.styles import BLUE, MARKERS, SINGLE, VERMILLION
from fcdm.analysis.stats.claim_sides import Pair
from fcdm.analysis.stats.step_efficiency import equal_fid_ratio
from fcdm.analysis.stats.step_ratios import efficiency_curve
from fcdm.formatting import steps_text

OF_AXIS = {"steps": "Training steps", "train_flops": "Training compute (FLOPs)"}
PUBLISHED = "published"


def pair_figure(pairs: Sequence[Pair], targets: Sequence[float] = (), axis: str = "steps") -> tuple[Figure, str]:
    """FID of both models against `axis`, an arrow at each target of the first pair; (figure, what it shows).

    Published points are hollow, one's own filled.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 2.7))
    sentences = []
    for pair in pairs:
        hollow = pair.origin == PUBLISHED
        for name, points, colour in ((pair.name_a, pair.a, BLUE), (pair.name_b, pair.b, VERMILLION)):
            face = "white" if hollow else colour
            line = ":" if hollow else "-"
            label = f"{name}, {pair.origin}"
            axes.plot(points[axis], points["fid"], line, marker="o", color=colour, markerfacecolor=face, label=label)
            sentences.append(f"{label}: {', '.join(f'{fid:.4g}' for fid in points['fid'])}")
    for target in targets if pairs else ():
        ratio = equal_fid_ratio(*pairs[0].curves(axis), target)
        if np.isfinite(ratio.ratio):
            ends = ((ratio.a.amount, target), (ratio.b.amount, target))
            axes.annotate("", *ends, arrowprops={"arrowstyle": "-|>", "color": "0.15", "lw": 0.9, "shrinkA": 0})
            middle = np.sqrt(ratio.a.amount * ratio.b.amount)
            axes.annotate(f"{ratio.ratio:.1f}×", (middle, target), (0, 2), textcoords="offset points", ha="center")
            sentences.append(f"{ratio.ratio:.3g} times at FID {target:g}")
    axes.set(xscale="log", xlabel=OF_AXIS[axis], ylabel="FID")
    if axis == "steps":
        marks = sorted({float(step) for pair in pairs for points in (pair.a, pair.b) for step in points["steps"]})
        axes.set_xticks(marks, [steps_text(step) for step in marks], rotation=30)
        axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=1)
    return figure, f"FID against {OF_AXIS[axis].lower()}. {'; '.join(sentences)}"


def ratio_figure(pairs: Sequence[Pair], axis: str = "steps") -> tuple[Figure, str]:
    """The ratio at equal FID over every FID that both models reach; (figure, what it shows).

    The wide band: either model's FIDs off by the pair's `error`, where that is known. The narrow one, where there are
    several seeds: the 95 % interval over training seeds. Pairs without a shared FID are told in words.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 2.5))
    sentences = []
    for pair, colour in zip(pairs, ("0.25", BLUE, VERMILLION, "0.5") * len(pairs), strict=False):
        ratios = efficiency_curve(pair, axis).dropna(subset="ratio")
        name = f"{pair.name_b} over {pair.name_a}, {pair.origin}"
        if ratios.empty:
            sentences.append(f"{name}: no FID that both reach between two of their points")
            continue
        hollow = pair.origin == PUBLISHED
        axes.plot(ratios["target"], ratios["ratio"], ":" if hollow else "-", color=colour, label=name)
        axes.fill_between(ratios["target"], ratios["low"], ratios["high"], color=colour, alpha=0.12, lw=0)
        seeds = ratios.dropna(subset=["low_seeds", "high_seeds"])
        seeds = seeds[np.isfinite(seeds["high_seeds"])]
        axes.fill_between(seeds["target"], seeds["low_seeds"], seeds["high_seeds"], color=colour, alpha=0.3, lw=0)
        first, last = ratios.iloc[0], ratios.iloc[-1]
        sentences.append(
            f"{name}: {first['ratio']:.3g} at FID {first['target']:.4g} to {last['ratio']:.3g} at {last['target']:.4g}"
        )
    if not axes.lines:
        axes.text(0.5, 0.5, fill("; ".join(sentences) or "nothing to compare", 44), ha="center", va="center")
        axes.set_axis_off()
        return figure, "; ".join(sentences)
    axes.axhline(1.0, color="0.6", lw=0.7)
    axes.invert_xaxis()
    what = "steps" if axis == "steps" else "training FLOPs"
    axes.set(xlabel="FID that both reach (better to the right)", ylabel=f"Times fewer {what}", yscale="log")
    low, high = axes.get_ylim()
    marks = [mark for mark in (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30) if low <= mark <= high]
    axes.set_yticks(marks)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=1)
    errors = sorted({f"{pair.error:.3g}" for pair in pairs if np.isfinite(pair.error)})
    band = f" (band: an error of {' or '.join(errors)} FID)" if errors else ""
    return figure, f"Ratio at equal FID{band}. {'; '.join(sentences)}"


def size_figure(points: pd.DataFrame, runs: pd.DataFrame | None) -> tuple[Figure, str]:
    """FID against forward GMACs, a line per family and patch size: published hollow, one's own at their last budget."""
    figure, axes = plt.subplots(figsize=(SINGLE, 3.0))
    sentences = []
    own = None if runs is None else runs[runs["steps"] == runs["steps"].max()].assign(model=runs["label"])
    for origin, frame in ((PUBLISHED, points), ("these runs", own)):
        if frame is None:
            continue
        kept = frame[np.isfinite(frame["forward_gmacs"]) & np.isfinite(frame["fid"])]
        lacking = sorted(set(frame["model"]) - set(kept["model"]))
        if lacking:
            sentences.append(f"left out, {origin}: {', '.join(lacking)}, whose MACs or FID are not known")
        for place, (name, rows) in enumerate(kept.assign(line=kept["model"].map(_series)).groupby("line")):
            rows = rows.groupby("model", as_index=False)[["forward_gmacs", "fid"]].mean().sort_values("forward_gmacs")
            colour = {"FCDM": BLUE, "DiT": VERMILLION}.get(str(name).split("-")[0].split(" ")[0], "0.5")
            face = "white" if origin == PUBLISHED else colour
            style: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "color": colour, "markerfacecolor": face}
            axes.plot(rows["forward_gmacs"], rows["fid"], ":" if origin == PUBLISHED else "-", label=str(name), **style)
            sentences.append(f"{name}: {', '.join(f'{row.model} {row.fid:.4g}' for row in rows.itertuples())}")
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel="FID")
    for which in (axes.xaxis, axes.yaxis):
        which.set_major_locator(FixedLocator(log_ticks(*which.get_view_interval(), 6)))
        which.set_minor_locator(NullLocator())
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(loc="outside lower center", ncols=3)
    return figure, f"FID against forward GMACs. {'; '.join(sentences)}"


def _series(model: str) -> str:
    """`DiT-XL/2` and `DiT-S/2` -> `DiT /2`: one line of sizes."""
    family, _, size = model.partition("-")
    patch = size.partition("/")[2].split(" ")[0]
    return f"{family} /{patch}" if patch else family
