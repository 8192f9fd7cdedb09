"""FID and throughput against a model's forward GMACs, each bubble as large as the model has parameters."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fcdm.analysis.data.labels import display_name, scales
from fcdm.analysis.data.seed_curves import dropped, seed_curves
from fcdm.analysis.figures.axes import NOTE, Drawn, fid_label, legend_columns, log_axes, spread
from fcdm.analysis.figures.published_points import LEGEND, UNDISCLOSED, named_as, unguided
from fcdm.analysis.figures.styles import DOUBLE, FAMILIES, OTHERS, Colour, lighter
from fcdm.analysis.published import PUBLISHED
from fcdm.formatting import steps_text

Box = tuple[float, float, float, float]
"""Left, lower, right and upper end, in points."""
MOST_BUDGETS = 4
LARGEST, SMALLEST = 90.0, 10.0
"""Areas of bubbles, points squared: in between by parameters."""
UNKNOWN = 22.0
"""Area of the crosses that stand for models of unknown size."""
ELSEWHERE = "0.55"
"""Colour of families that these runs have none of."""


def fid_against_gmacs(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Drawn | None:
    """Left FID, right the measured training throughput, against the forward pass's GMACs of one image.

    A line per family, budget, data and resolution, the best setting of each model at each; the later the budget the
    darker. Published points are hollow, crosses where the model's size is unknown; their throughput is of undisclosed
    protocol. None where no run says what it costs.
    """
    best, speeds, left_out = _own(table)
    if best.empty:
        return None
    budgets = spread(sorted(set(best["steps"])), MOST_BUDGETS)
    hidden = sorted(set(best["steps"]) - set(budgets))
    if hidden:
        left_out.append(f"left out: budgets between those drawn ({', '.join(f'{step:,}' for step in hidden)} steps)")
    best = best[best["steps"].isin(budgets)]
    others = _others(published, budgets, best, left_out)
    largest = float(pd.concat([best["parameters"], others["parameters"]]).max())
    timed_elsewhere = bool((others["panel"] == "throughput").any())
    measured = bool(len(speeds)) or timed_elsewhere
    figure, panels = plt.subplots(1, 2 if measured else 1, figsize=(DOUBLE, 2.9), squeeze=False)
    left, right = panels[0, 0], panels[0, -1] if measured else None
    families = sorted(set(best["family"]), key=lambda family: (family == "dit", family))
    for family in families:
        for steps in budgets:
            rows = best[(best["family"] == family) & (best["steps"] == steps)]
            _bubbles(left, rows, "fid", family, _shade(family, budgets.index(steps), len(budgets)), largest)
        if right is not None:
            rows = speeds[speeds["family"] == family]
            _bubbles(right, rows, "images_per_s", family, _shade(family, 0, 1), largest)
    for panel, axes, y in (("fid", left, "fid"), ("throughput", right, "images_per_s")):
        if axes is not None:
            _hollow(axes, others[others["panel"] == panel], y, largest)
    _finish(left, best, "fid", fid_label(table))
    if right is not None:
        # Published throughputs say neither of what nor how they were taken: the axis claims no more than its unit.
        _finish(right, speeds, "images_per_s", "images/s" if timed_elsewhere else "Training throughput (images/s)")
        if timed_elsewhere:
            right.set_title(UNDISCLOSED, fontsize=NOTE, loc="right")
        left_out += _no_speed(best, speeds)
    _legend(figure, families, budgets, best, others, largest)
    figure.draw_without_rendering()  # the layout, which the names are placed in
    _name_models(left, best, "fid", largest)
    if right is not None:
        _name_models(right, speeds, "images_per_s", largest)
    numbers = pd.concat([best, speeds, others], ignore_index=True)
    columns = ["panel", "origin", "label", "name", "family", "forward_gmacs", "parameters", "steps"]
    numbers = numbers[[*columns, "fid", "fid_min", "fid_max", "images_per_s", "device"]]
    numbers.attrs["left_out"] = [*left_out, *dropped(table)]
    return figure, numbers


def _own(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(FID of the best setting at each budget, throughput of each model, what has no place)."""
    left_out, parts = [], []
    for scale, line in [(scale, line) for scale, rows in scales(table) for line in seed_curves(rows)]:
        if not ((line.points["forward_gmacs"] > 0).all() and (line.points["fid"] > 0).all()):
            left_out.append(f"left out: {line.label}: GMACs or FID of 0 or unknown have no place on a log axis")
            continue
        parameters = line.runs["parameters"].iloc[0]
        name = f"{line.name}{scale}"
        kept = line.points.assign(label=line.label, name=name, family=line.family, parameters=parameters)
        parts.append(
            kept.assign(panel="fid", origin="these runs", model=line.name, at=scale, resolution=line.resolution)
        )
    if not parts:
        return pd.DataFrame({"steps": [], "parameters": []}), pd.DataFrame(), left_out
    whole = pd.concat(parts)
    # Of several settings of one model (at one resolution, of one data set) the best counts at each budget.
    best = whole.sort_values("fid").drop_duplicates(["name", "steps"]).sort_values("forward_gmacs")
    behind = sorted(set(whole["label"]) - set(best["label"]))
    if behind:
        left_out.append(f"left out: settings that are the best of their model at no budget ({', '.join(behind)})")
    timed = table[table["images_per_s"].notna() & (table["images_per_s"] > 0) & (table["forward_gmacs"] > 0)]
    timed = pd.concat([rows.assign(at=scale) for scale, rows in scales(timed)]) if len(timed) else timed.assign(at="")
    names = zip(timed["model"], timed["family"], timed["at"], strict=True)
    timed = timed.assign(name=[f"{display_name(model, family)}{at}" for model, family, at in names])
    speeds = timed.groupby(["name", "family", "at", "forward_gmacs"], as_index=False).agg(
        images_per_s=("images_per_s", "median"),
        parameters=("parameters", "first"),
        device=("device", lambda names: ", ".join(sorted(set(names)))),
    )
    speeds = speeds.sort_values("forward_gmacs").assign(panel="throughput", origin="these runs", label=speeds["name"])
    return best, speeds, left_out


def _others(
    published: pd.DataFrame | None, budgets: list[int], best: pd.DataFrame, left_out: list[str]
) -> pd.DataFrame:
    """The published points of both panels: of the same models, and of families that these runs have none of."""
    columns = ["panel", "origin", "label", "name", "family", "at", "forward_gmacs", "parameters", "steps", "fid"]
    if published is None or published.empty:
        return pd.DataFrame(columns=[*columns, "images_per_s"])
    known = published[published["forward_gmacs"].notna()].assign(name=published["model"], origin=PUBLISHED)
    if len(known) < len(published):
        left_out.append(f"left out: {len(published) - len(known)} published points of models of unknown GMACs")
    ours = known["family"].isin(FAMILIES)
    known = pd.concat([named_as(known[ours], set(best["model"]), left_out), known[~ours]])
    scale_of = dict(zip(best["resolution"], best["at"], strict=True))  # published points are of one data set
    at = known["resolution"].map(scale_of)
    known = known.assign(at=at, name=known["model"] + at)
    plain = unguided(known, left_out)
    plain = plain[plain["fid"].notna()]
    same = plain[plain["steps"].isin(budgets)].assign(panel="fid", images_per_s=np.nan)
    if len(same) < len(plain):
        left_out.append(f"left out: {len(plain) - len(same)} published points at budgets that are not drawn")
    timed = known[known["images_per_s"].notna()].drop_duplicates("name").assign(panel="throughput", fid=np.nan)
    if len(timed):
        left_out.append("published throughputs are of undisclosed device, batch size and precision")
    return pd.concat([same, timed], ignore_index=True)[[*columns, "images_per_s"]]


def _area(parameters: Any, largest: float) -> Any:
    return SMALLEST + (LARGEST - SMALLEST) * np.asarray(parameters, dtype=float) / largest


def _shade(family: str, place: int, of: int) -> Colour:
    return lighter(FAMILIES.get(family, OTHERS[0])[0], 0.55 * (1 - (place + 1) / of))


def marker_of(family: str) -> str:
    """The family by shape, beside its colour."""
    return {"fcdm": "o", "dit": "s"}.get(family, "D")


def _bubbles(axes: Axes, rows: pd.DataFrame, y: str, family: str, colour: Colour, largest: float) -> None:
    dashes = FAMILIES.get(family, OTHERS[0])[1]
    for _, of_scale in rows.groupby("at"):
        axes.plot(of_scale["forward_gmacs"], of_scale[y], color=colour, linestyle=dashes, lw=0.9, zorder=2)
    sizes = _area(rows["parameters"], largest)
    look: dict[str, Any] = {"color": [colour], "marker": marker_of(family), "edgecolor": "white", "linewidth": 0.6}
    axes.scatter(rows["forward_gmacs"], rows[y], s=sizes, zorder=3, **look)


def _hollow(axes: Axes, rows: pd.DataFrame, y: str, largest: float) -> None:
    for family, of_family in rows.groupby("family"):
        colour = FAMILIES[str(family)][0] if family in FAMILIES else ELSEWHERE
        sized = of_family[of_family["parameters"].notna()]
        look: dict[str, Any] = {
            "marker": marker_of(str(family)),
            "facecolor": "none",
            "edgecolor": colour,
            "linewidth": 0.9,
        }
        halo = [withStroke(linewidth=1.8, foreground="white")]  # rings on full bubbles have to be seen
        axes.scatter(
            sized["forward_gmacs"], sized[y], s=_area(sized["parameters"], largest), zorder=4, path_effects=halo, **look
        )
        unsized = of_family[of_family["parameters"].isna()]
        if len(unsized):
            axes.scatter(unsized["forward_gmacs"], unsized[y], s=UNKNOWN, marker="x", color=colour, lw=0.9, zorder=4)


def _finish(axes: Axes, rows: pd.DataFrame, y: str, name: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="Forward pass of one image (GMACs)", ylabel=name)
    axes.margins(x=0.15, y=0.15)
    axes.autoscale_view()
    log_axes(axes, 4, 7)


def _name_models(axes: Axes, rows: pd.DataFrame, y: str, largest: float) -> None:
    """Each model's name beside its highest bubble, where the fewest bubbles and names are already. Needs the layout."""
    to_points = 72 / axes.figure.dpi
    places = to_points * axes.transData.transform(rows[["forward_gmacs", y]].to_numpy(float))
    radii = np.sqrt(_area(rows["parameters"], largest)) / 2
    boxes = [(x - r, at - r, x + r, at + r) for (x, at), r in zip(places, radii, strict=True)]
    corners = to_points * axes.get_window_extent().get_points()
    tops = (
        rows.assign(x=places[:, 0], at=places[:, 1], radius=radii).sort_values(y).drop_duplicates("name", keep="last")
    )
    for name, family, gmacs, value, x, at, radius in tops[
        ["name", "family", "forward_gmacs", y, "x", "at", "radius"]
    ].itertuples(index=False):
        text = str(name).split("-", 1)[-1]  # the family is told by colour and shape
        wide, high, away = 4.6 * len(text), 7.5, radius + 2
        choices: list[tuple[float, int, tuple[float, float], Box]] = []
        for dx, dy in ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            cx, cy = x + dx * (away + wide / 2), at + dy * (away + high / 2)
            box = (cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2)
            inside = corners[0, 0] < box[0] and box[2] < corners[1, 0] and box[3] < corners[1, 1]
            covered = sum(_overlap(box, other) for other in boxes) + (0 if inside else wide * high)
            choices.append((round(covered, 1), len(choices), (cx, cy), box))
        _, _, (cx, cy), box = min(choices)
        boxes.append(box)
        axes.annotate(
            text,
            (gmacs, value),
            (cx - x, cy - at),
            textcoords="offset points",
            fontsize=NOTE,
            ha="center",
            va="center",
            color=FAMILIES.get(str(family), OTHERS[0])[0],
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _no_speed(best: pd.DataFrame, speeds: pd.DataFrame) -> list[str]:
    lacking = sorted(set(best["name"]) - set(speeds["name"])) if len(speeds) else sorted(set(best["name"]))
    left_out = [f"left out: throughput of {', '.join(lacking)}: not measured"] if lacking else []
    devices = sorted(set(speeds["device"])) if len(speeds) else []
    if len(devices) > 1:
        left_out.append(f"throughputs are of several devices, not to be compared: {'; '.join(devices)}")
    return left_out


def _legend(
    figure: Any, families: list[str], budgets: list[int], best: pd.DataFrame, others: pd.DataFrame, largest: float
) -> None:
    handles, texts = [], []
    for family in families:
        colour, dashes = FAMILIES.get(family, OTHERS[0])
        handles.append(Line2D([], [], color=colour, linestyle=dashes, marker=marker_of(family)))
        texts.append(display_name("", family).rstrip("-"))
    for place, steps in enumerate(budgets):
        share = lighter((0.2, 0.2, 0.2), 0.55 * (1 - (place + 1) / len(budgets)))
        handles.append(Line2D([], [], color=share, linestyle="none", marker="o"))
        texts.append(f"{steps_text(steps)} steps")
    for parameters in sorted({float(best["parameters"].min()), float(best["parameters"].max())}):
        size = float(np.sqrt(_area(parameters, largest)))
        handles.append(Line2D([], [], color="0.6", linestyle="none", marker="o", markersize=size))
        texts.append(f"{steps_text(parameters)} parameters")
    if len(others):
        handles.append(Line2D([], [], color="0.35", linestyle="none", marker="o", markerfacecolor="none"))
        texts.append(LEGEND)
        if others["parameters"].isna().any():
            handles.append(Line2D([], [], color="0.35", linestyle="none", marker="x"))
            texts.append("unknown size")
        if not set(others["family"]) <= set(FAMILIES):
            handles.append(Line2D([], [], color=ELSEWHERE, linestyle="none", marker="D", markerfacecolor="none"))
            texts.append("other families")
    figure.legend(handles, texts, loc="outside lower center", ncols=legend_columns(texts, DOUBLE))
