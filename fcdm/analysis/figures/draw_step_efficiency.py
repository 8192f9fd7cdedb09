"""Step efficiency drawn: two curves with the ratio at equal FID, and that ratio over all FIDs that both reach."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fcdm.analysis.data.labels import distance_of, size_line
from fcdm.analysis.figures.axes import NOTE, legend_below, log_axes, log_ticks, note_above, step_ticks
from fcdm.analysis.figures.fid_curves import AMOUNTS
from fcdm.analysis.figures.model_size import MINUS, correlations
from fcdm.analysis.figures.styles import SINGLE, Look, family_looks, family_of
from fcdm.analysis.published import PUBLISHED
from fcdm.analysis.stats.claim_sides import Pair
from fcdm.analysis.stats.step_efficiency import equal_fid_ratio
from fcdm.analysis.stats.step_ratios import efficiency_curve

OWN = "these runs"
GREYS = ("0.15", "0.45", "0.3", "0.6")
PAIR_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
ONE, BOTH = 0.22, 0.1
"""How dark the bands are where one model's FIDs are off, and where both are."""


def pair_figure(pairs: Sequence[Pair], targets: Sequence[float] = (), axis: str = "steps") -> tuple[Figure, str]:
    """FID of both models against `axis`, an arrow at each target of the first pair; (figure, what it shows).

    Published points are hollow, one's own filled.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 2.7))
    amount = AMOUNTS[axis]
    distance = _distance(pairs)
    axes.set(xscale="log", yscale="log", xlabel=amount.label, ylabel=distance)
    sentences, handles, texts, marks = [], [], [], set()
    for place, pair in enumerate(pairs):
        for (name, points), look in zip(((pair.name_a, pair.a), (pair.name_b, pair.b)), _looks(pair), strict=True):
            style = look.hollow if pair.origin == PUBLISHED else look.line
            style |= {"marker": look.markers[place % len(look.markers)]}
            label = f"{name}, {pair.origin}"
            axes.plot(points[axis] * amount.scale, points["fid"], **style)
            marks |= {int(step) for step in points["steps"]}
            handles.append(Line2D([], [], **style))
            texts.append(label)
            sentences.append(f"{label}: {', '.join(f'{fid:.4g}' for fid in points['fid'])}")
    for target in targets if pairs else ():
        ratio = equal_fid_ratio(*pairs[0].curves(axis), target)
        if np.isfinite(ratio.ratio):
            ends = (ratio.a.amount * amount.scale, ratio.b.amount * amount.scale)
            arrow = {"arrowstyle": "-|>", "color": "0.15", "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
            axes.annotate("", (ends[0], target), (ends[1], target), arrowprops=arrow)
            text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": NOTE}
            text["path_effects"] = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(f"{ratio.ratio:.1f}×", (float(np.sqrt(ends[0] * ends[1])), target), (0, 2), **text)
            sentences.append(f"{ratio.ratio:.3g} times at {distance} {target:g}")
    log_axes(axes)
    if axis == "steps" and marks:
        step_ticks(axes.xaxis, sorted(marks))
    legend_below(figure, handles, texts, 2.3, most=1)
    return figure, f"{distance} against {amount.label[0].lower()}{amount.label[1:]}. {'; '.join(sentences)}"


def ratio_figure(pairs: Sequence[Pair], axis: str = "steps") -> tuple[Figure, str]:
    """The ratio at equal FID over every FID that both models reach; (figure, what it shows).

    The bands: one model's FIDs, or both, off by the pair's relative `error`, where that is known; between thin lines
    lies the 95 % interval over training seeds, where there are several. Pairs without a shared FID are told in words.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 2.5))
    distance = _distance(pairs)
    sentences, handles, texts = [], [], []
    errors: set[float] = set()
    several_seeds = False
    for place, pair in enumerate(pairs):
        ratios = efficiency_curve(pair, axis).dropna(subset="ratio")
        name = f"{pair.name_b} over {pair.name_a}, {pair.origin}"
        if ratios.empty:
            sentences.append(f"{name}: no {distance} that both reach between two of their points")
            continue
        colour, dashes = GREYS[place % len(GREYS)], PAIR_DASHES[place % len(PAIR_DASHES)]
        (line,) = axes.plot(ratios["target"], ratios["ratio"], color=colour, linestyle=dashes, label=name, zorder=3)
        handles.append(line)
        texts.append(name)
        if np.isfinite(pair.error):
            errors.add(pair.error)
            axes.fill_between(ratios["target"], ratios["low"], ratios["high"], color=colour, alpha=ONE, lw=0)
            if "low_both" in ratios:
                axes.fill_between(
                    ratios["target"], ratios["low_both"], ratios["high_both"], color=colour, alpha=BOTH, lw=0
                )
        several_seeds |= _draw_seeds(axes, ratios, colour)
        first, last = ratios.iloc[0], ratios.iloc[-1]
        sentences.append(
            f"{name}: {first['ratio']:.3g} at {distance} {first['target']:.4g} "
            f"to {last['ratio']:.3g} at {last['target']:.4g}"
        )
    if not axes.lines:
        axes.text(0.5, 0.5, fill("; ".join(sentences) or "nothing to compare", 44), ha="center", va="center")
        axes.set_axis_off()
        return figure, "; ".join(sentences)
    band = _bands(errors, several_seeds, handles, texts, distance)
    axes.axhline(1.0, color="0.6", lw=0.7)
    axes.set(xlabel=f"{distance} that both reach (better to the right)", ylabel=f"Times fewer {AMOUNTS[axis].unit}")
    axes.set(xscale="log", yscale="log")
    log_axes(axes)
    low, high = sorted(axes.get_ylim())
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(low, high, 6)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.invert_xaxis()
    differing = [f"{pair.name_a} against {pair.name_b}: {'; '.join(pair.differs)}" for pair in pairs if pair.differs]
    note_above(axes, differing, SINGLE - 0.15)
    legend_below(figure, handles, texts, 2.2, most=1)
    return figure, f"Ratio at equal {distance}{band}. {'; '.join(sentences)}"


def size_figure(points: pd.DataFrame, runs: pd.DataFrame | None) -> tuple[Figure, str]:
    """FID against forward GMACs, a line per family and patch size: published hollow, one's own at their last budget.

    Said as well: Pearson's correlation of log FID and log GMACs, over all models of a family (figure 8 of DiT, arXiv
    2212.09748), where there are three.
    """
    figure, axes = plt.subplots(figsize=(SINGLE, 3.0))
    distance = "FID" if runs is None else distance_of(runs)
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel=distance)
    sentences, handles, texts, found = [], [], [], []
    own = None if runs is None else runs[runs["steps"] == runs["steps"].max()].assign(model=runs["label"])
    for origin, frame in ((PUBLISHED, points), (OWN, own)):
        if frame is None:
            continue
        kept = frame[np.isfinite(frame["forward_gmacs"]) & np.isfinite(frame["fid"])]
        lacking = sorted(set(frame["model"]) - set(kept["model"]))
        if lacking:
            sentences.append(f"left out, {origin}: {', '.join(lacking)}, whose MACs or {distance} are not known")
        looks = family_looks(kept["family"])
        place: dict[str, int] = {}
        for name, rows in kept.assign(line=kept["model"].map(size_line)).groupby("line"):
            family = str(rows["family"].iloc[0])
            rows = rows.groupby("model", as_index=False)[["forward_gmacs", "fid"]].mean().sort_values("forward_gmacs")
            found.append(rows.assign(family=str(name).split(" /")[0], at=origin, steps=0))
            look = looks[family]
            style = look.hollow if origin == PUBLISHED else look.line
            at = place[family] = place.get(family, -1) + 1
            style |= {"marker": look.markers[at % len(look.markers)]}
            axes.plot(rows["forward_gmacs"], rows["fid"], **style)
            handles.append(Line2D([], [], **style))
            texts.append(str(name) if origin == PUBLISHED else f"{name}, {origin}")
            sentences.append(f"{name}: {', '.join(f'{row.model} {row.fid:.4g}' for row in rows.itertuples())}")
    log_axes(axes)
    correlated = correlations(pd.concat(found), "forward_gmacs") if found else pd.DataFrame()
    said = [
        f"{row['family']} {row['correlation']:.2f}".replace("-", MINUS) + f" ({row['models']} models, {row['at']})"
        for row in correlated.to_dict("records")
    ]
    if said:
        sentences.append(f"correlation of log {distance} and log GMACs: {', '.join(said)}")
        note_above(axes, ["log-log correlation:", *said], SINGLE - 0.15)
    legend_below(figure, handles, texts, 2.4)
    return figure, "; ".join(sentences)


def _distance(pairs: Sequence[Pair]) -> str:
    """What the pairs are compared by: one distance for all."""
    return pairs[0].distance if pairs else "FID"


def _looks(pair: Pair) -> tuple[Look, Look]:
    """How the two are drawn: by their families; of one family the second in what a third family would have."""
    families = family_of(pair.name_a), family_of(pair.name_b)
    looks = family_looks(families)
    if families[0] == families[1]:
        return looks[families[0]], family_looks([*families, ""])[""]
    return looks[families[0]], looks[families[1]]


def _draw_seeds(axes: Axes, ratios: pd.DataFrame, colour: str) -> bool:
    """The ends of the interval over seeds, where there is one."""
    seeds = ratios.dropna(subset=["low_seeds", "high_seeds"])
    seeds = seeds[np.isfinite(seeds["high_seeds"])]
    for end in ("low_seeds", "high_seeds"):
        axes.plot(seeds["target"], seeds[end], color=colour, lw=0.6, zorder=3)
    return len(seeds) > 0


def _bands(errors: set[float], several_seeds: bool, handles: list[Any], texts: list[str], distance: str) -> str:
    """Adds the bands to the legend; what the sentence says of them."""
    band = ""
    if errors:
        off = " or ".join(f"{error:.2g}" for error in sorted(100 * error for error in errors))
        for alpha, whose in ((ONE + BOTH, "one model's"), (BOTH, "both models'")):
            handles.append(Patch(color="0.15", alpha=alpha, lw=0))
            texts.append(f"{whose} {distance}s off by {off} %")
        band = f" (bands: {distance}s off by {off} %)"
    if several_seeds:
        handles.append(Line2D([], [], color="0.3", lw=0.6))
        texts.append("95 % interval over seeds")
    return band
