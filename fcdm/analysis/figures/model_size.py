"""FID against the size of a model: GMACs of its forward pass, parameters, or FLOPs of one sample.

As figure 8 of DiT (arXiv 2212.09748) and figure 1 of EDM2 (arXiv 2312.02696).
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from fcdm.analysis.data.labels import cooled_text, data_scales, family_name, scales
from fcdm.analysis.data.seed_curves import curve_notes, seed_curves
from fcdm.analysis.figures.axes import (
    Drawn,
    fid_axis,
    legend_below,
    log_axes,
    log_ticks,
    note_above,
    shortened,
    spread,
)
from fcdm.analysis.figures.point_names import MOST, ends_of_many, name_points
from fcdm.analysis.figures.published_points import LEGEND, named_as, unguided
from fcdm.analysis.figures.styles import (
    FAMILIES,
    SINGLE,
    Look,
    family_looks,
    family_of,
    published_handle,
    rim,
    shade,
)
from fcdm.analysis.published import PUBLISHED
from fcdm.config.samplers import ADAPTIVE
from fcdm.cost.model_cost import FLOPS_PER_MAC, sampling_passes
from fcdm.formatting import steps_text

MOST_BUDGETS = 4
LEAST_MODELS = 3
"""Of fewer a correlation says nothing: of two it is 1 or -1."""
CORRELATION = "correlation"
MINUS = "−"
COLUMNS = ["origin", "label", "name", "family", "steps", "epochs"]


@dataclass(frozen=True)
class Size:
    """What a model's size is counted in, as an axis."""

    label: str
    unit: str


SIZES = {
    "forward_gmacs": Size("Forward pass of one image (GMACs)", "GMACs"),
    "parameters": Size("Parameters", "parameters"),
    "sampling_flops": Size("Sampling one image (FLOPs)", "sampling FLOPs"),
}


def sampling_flops(table: pd.DataFrame) -> pd.Series:
    """FLOPs of the network for one sample, shape of the table. NaN where the passes are not known: an adaptive solver's
    steps, a weaker model that guides and costs what is not in the table."""
    protocol = table.attrs.get("protocol", {})
    sampler, steps = str(protocol.get("sampler")), protocol.get("sampling_steps")
    unknown = not steps or sampler in ADAPTIVE or protocol.get("guidance_weak") is not None
    passes = [np.nan if unknown else sampling_passes(sampler, int(steps), scale) for scale in table["guidance_scale"]]
    return pd.Series(table["forward_gmacs"] * 1e9 * FLOPS_PER_MAC * np.array(passes, dtype=float))


def fid_against_size(table: pd.DataFrame, axis: str, published: pd.DataFrame | None = None) -> Drawn | None:
    """FID against one of SIZES, both in log: a line per family, budget and scale, later budgets darker.

    At each budget the best setting of each model; cooled points have dark rims and lines of their own. Above stands the
    correlation of log FID with log size at the last budget, of each family that has three models there. Published
    points are hollow. None where no run has that size.
    """
    best, left_out = _own(table, axis)
    if best.empty:
        return None
    budgets = spread(sorted(set(best["steps"])), MOST_BUDGETS)
    hidden = sorted(set(best["steps"]) - set(budgets))
    if hidden:
        left_out.append(f"left out: budgets between those drawn ({', '.join(f'{step:,}' for step in hidden)} steps)")
    best = best[best["steps"].isin(budgets)]
    others = _others(published, axis, budgets, best, left_out)
    figure, axes = plt.subplots(figsize=(SINGLE, 2.3))
    families = sorted(set(best["family"]), key=lambda family: (family == "dit", family))
    looks = family_looks([*families, *others["family"]])
    for (family, steps, _), rows in best.groupby(["family", "steps", "at"], sort=False):
        look = looks[str(family)]
        colour = shade(look.colour, budgets.index(int(str(steps))), len(budgets))
        style = {**look.line, "color": colour, **rim(rows["cooldown"].iloc[0])}
        axes.plot(rows[axis], rows["fid"], **style, lw=0.9, zorder=2)
    for family, rows in others.groupby("family"):
        axes.plot(rows[axis], rows["fid"], **{**looks[str(family)].hollow, "linestyle": "none"}, zorder=4)
    axes.set(xscale="log", yscale="log", xlabel=SIZES[axis].label, ylabel=fid_axis(table))
    axes.margins(x=0.15, y=0.15)
    axes.autoscale_view()
    log_axes(axes, 4, 7)
    if axis == "parameters":
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim(), 4)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: steps_text(value)))
    found = correlations(best, axis)
    note_above(axes, _correlation_words(found), SINGLE - 0.15)
    handles, texts = _legend(families, budgets, others, looks)
    shares = sorted(set(best["cooldown"]) - {0.0})
    if shares:
        handles.insert(len(families), Line2D([], [], color="0.6", marker="o", linestyle="none", **rim(shares[0])))
        texts.insert(len(families), "cooled down" if len(shares) > 1 else cooled_text(shares[0]).strip())
    legend_below(figure, handles, texts, 2.3, most=3)
    figure.draw_without_rendering()  # the layout, which the names are placed in
    tops = best.sort_values("fid").drop_duplicates("name", keep="last").sort_values(axis)
    names = tops["name"] if len(shares) > 1 else tops["model"] + tops["at_data"]  # of one share the legend says it
    tops = tops.assign(text=names.map(size_name), colour=[looks[family].colour for family in tops["family"]])
    tops = tops.sort_values("cooldown").drop_duplicates(["text", "family"]).sort_values(axis)
    name_points(axes, ends_of_many(tops, axis), axis, "fid")
    numbers = pd.concat([best, others, found], ignore_index=True)
    numbers = numbers.reindex(columns=[*COLUMNS, axis, "fid", "fid_min", "fid_max", "correlation", "models"])
    numbers.attrs["left_out"] = [*left_out, *curve_notes(table)]
    return figure, numbers


def correlations(best: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Pearson's correlation of log FID and log size, a row per family, budget and scale with LEAST_MODELS."""
    rows = []
    for (family, steps, at), points in best.groupby(["family", "steps", "at"]):
        if len(points) >= LEAST_MODELS:
            value = float(np.corrcoef(np.log(points[axis]), np.log(points["fid"]))[0, 1])
            row = {"origin": CORRELATION, "family": family, "steps": steps, "at": at, "models": len(points)}
            rows.append({**row, "name": f"{family_name(str(family))}{at}", "correlation": value})
    return pd.DataFrame(rows, columns=["origin", "family", "steps", "at", "models", "name", "correlation"])


def size_name(name: str) -> str:
    """`FCDM-XL, 256 px` -> `XL, 256 px`, for the family is told by colour and shape; others shortened in the middle."""
    return shortened(name.partition("-")[2] if family_of(name) in FAMILIES else name, MOST)


def _correlation_words(found: pd.DataFrame) -> list[str]:
    """`log-log correlation at 64K steps:` and `FCDM −0.99, DiT −0.98 (12 models each)`."""
    if found.empty:
        return []
    last = found[found["steps"] == found["steps"].max()].sort_values("family", ascending=False)
    alike = last["models"].nunique() == 1
    each = []
    for row in last.to_dict("records"):
        each.append(f"{row['name']} {row['correlation']:.2f}".replace("-", MINUS))
        each[-1] += "" if alike else f" ({row['models']} models)"
    models = f" ({last['models'].iloc[0]} models{' each' if len(last) > 1 else ''})" if alike else ""
    return [f"log-log correlation at {steps_text(last['steps'].iloc[0])} steps:", ", ".join(each) + models]


def _own(table: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, list[str]]:
    """(FID of the best setting of each model at each budget, what has no place)."""
    left_out, parts = [], []
    sized = table.assign(sampling_flops=sampling_flops(table))
    parted = [(data, scale, rows) for data, of_data in data_scales(sized) for scale, rows in scales(of_data)]
    for data, cooled, line in [(data, cooled, line) for data, cooled, rows in parted for line in seed_curves(rows)]:
        scale = data + cooled
        above, below = line.for_log_axes()
        left_out += below
        size = float(line.runs[axis].iloc[0])
        if not size > 0:
            left_out.append(f"left out: {line.label}: {SIZES[axis].unit} of 0 or unknown have no place on a log axis")
            continue
        kept = above.points.assign(
            label=line.label,
            name=f"{line.name}{scale}",
            family=line.family,
            at=scale,
            at_data=data,
            cooldown=line.cooldown,
        )
        parts.append(kept.assign(**{axis: size}, origin="these runs", model=line.name, resolution=line.resolution))
    if not parts:
        return pd.DataFrame(), left_out
    whole = pd.concat(parts)
    # Of several settings of one model (at one resolution, of one data set) the best counts at each budget.
    best = whole.sort_values("fid").drop_duplicates(["name", "steps"]).sort_values([axis, "steps"])
    behind = sorted(set(whole["label"]) - set(best["label"]))
    if behind:
        left_out.append(f"left out: settings that are the best of their model at no budget ({', '.join(behind)})")
    return best, left_out


def _others(
    published: pd.DataFrame | None, axis: str, budgets: list[int], best: pd.DataFrame, left_out: list[str]
) -> pd.DataFrame:
    """The published points of the models that are drawn, at their budgets."""
    columns = [*COLUMNS, axis, "fid"]
    if published is None or published.empty or axis not in published:
        return pd.DataFrame(columns=columns)
    known = named_as(unguided(published, left_out), set(best["model"]), left_out)
    known = known[known["fid"].notna() & known[axis].notna()]
    same = known[known["steps"].isin(budgets)]
    if len(same) < len(known):
        left_out.append(f"left out: {len(known) - len(same)} published points at budgets that are not drawn")
    at = same["resolution"].map(dict(zip(best["resolution"], best["at_data"], strict=True)))  # of one data set
    return same.assign(name=same["model"] + at, origin=PUBLISHED)[columns]


def _legend(
    families: list[str], budgets: list[int], others: pd.DataFrame, looks: dict[str, Look]
) -> tuple[list[object], list[str]]:
    """A row per family in full colour, and one per budget with the points of every family in its shade."""
    handles: list[object] = [Line2D([], [], **looks[family].line, lw=0.9) for family in families]
    texts = [family_name(family) for family in families]
    for place, steps in enumerate(budgets if len(budgets) > 1 else []):
        marks = []
        for family in families:
            look = looks[family]
            colour = shade(look.colour, place, len(budgets))
            marks.append(Line2D([], [], **{**look.line, "color": colour, "linestyle": "none"}))
        handles.append(tuple(marks))
        texts.append(f"{steps_text(steps)} steps")
    if len(others):
        handles.append(published_handle())
        texts.append(LEGEND)
    return handles, texts
