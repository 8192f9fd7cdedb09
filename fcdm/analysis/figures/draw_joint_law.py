"""A joint law L(N, D) as pictures: its contours with the best sizes, iso-FLOP curves, N*(C), and what it misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.figures.axes import NOTE, Drawn, legend_below, log_axes
from fcdm.analysis.figures.styles import DOUBLE, SINGLE, Look, label_looks, shade
from fcdm.analysis.stats.joint_laws import JointStudy
from fcdm.errors import UserError
from fcdm.formatting import power_text, three_digits
from fcdm.laws.compute_optimal import Optimum, iso_flop, optimum_exponents
from fcdm.laws.joint_fit import JointFit
from fcdm.laws.joint_law import FLOPS_PER_MAC, optima_of
from fcdm.laws.predictive import LEVEL, SURE

Laws = Mapping[str, JointStudy]
"""What one law joins (`FCDM`, `DiT/2, cooled 20 %`) -> its law. Sizes are in forward MACs."""
Targets = Mapping[str, Sequence[tuple[float, float]]]
"""The same -> (N in MACs, D in images) of what is forecast and not measured."""

GRID = 60
"""Places along each axis where a law is computed."""
BEYOND = 1.6
"""How far, as a factor, contours go on beyond what was fitted."""
LINES = 8
"""Contours."""
COMPUTES = 4
"""Iso-FLOP curves of a law."""
FURTHER = 10.0
"""How far, as a factor, the best size is drawn beyond the compute that was fitted."""
WIDEST = 30.0
"""How far, as a factor, bands are drawn beyond their line: they may have no end."""
LEAST_PERCENT = 0.01
"""The scale of residuals goes this far at least."""
ROW = 2.4
"""Inches: the height of a row of panels."""
GMACS = "Forward pass N (GMACs)"
IMAGES = "Training images D"


def contour_figure(laws: Laws, name: str, targets: Targets | None = None) -> Drawn:
    """A panel for each law: its contours over N and D, what was fitted, and N*(C), D*(C) with its interval.

    `name`: of what the law is of, `FID`. `targets` are hollow. Beyond the fitted points contours are dotted.
    """
    figure, panels, looks = _panels(laws, sharey=False)
    parts, lines = [], []
    for axes, (label, made) in zip(panels, laws.items(), strict=True):
        fit, look = made.validation.fit, looks[label]
        points, law = fit.points, fit.law
        asked = list((targets or {}).get(label, ()))
        n, d = (
            np.geomspace(known.min() / BEYOND, max([known.max(), *(target[axis] for target in asked)]) * BEYOND, GRID)
            for axis, known in enumerate((points.n, points.d))
        )
        values = law(n[None], d[:, None])
        levels = np.geomspace(values.min(), values.max(), LINES + 2)[1:-1]
        axes.contour(n / 1e9, d, values, levels, colors=["0.75"], linewidths=0.7, linestyles="dotted")
        n_in, d_in = (np.geomspace(known.min(), known.max(), GRID) for known in (points.n, points.d))
        inside = law(n_in[None], d_in[:, None])
        drawn = axes.contour(n_in / 1e9, d_in, inside, levels, colors=["0.35"], linewidths=0.7)
        axes.clabel(drawn, fmt=_level_text, fontsize=NOTE)
        axes.plot(points.n / 1e9, points.d, color=look.colour, marker=look.markers[0], linestyle="none", ms=2.5)
        best = _optima(fit)
        if isinstance(best, str):
            lines.append(f"{label}: {best}")
        else:
            near = best[best["forward_macs"].between(n[0], n[-1]) & best["images"].between(d[0], d[-1])]
            low, high = (near[end].clip(n[0], n[-1]) / 1e9 for end in ("n_low", "n_high"))
            axes.fill_betweenx(near["images"], low, high, color=look.colour, alpha=0.2, lw=0)
            axes.plot(near["forward_macs"] / 1e9, near["images"], color=look.colour, lw=1.2, linestyle=look.dashes)
            parts.append(best.assign(kind="optimum", label=label))
        for target in asked:
            axes.plot(target[0] / 1e9, target[1], **{**look.hollow, "linestyle": "none"}, markersize=7)
            row = {"kind": "target", "forward_macs": target[0], "images": target[1], "value": float(law(*target))}
            parts.append(pd.DataFrame([row]).assign(label=label))
        axes.set(xscale="log", yscale="log", xlabel=GMACS, xlim=(n[0] / 1e9, n[-1] / 1e9), ylim=(d[0], d[-1]))
        axes.set_title(_title(label, fit), loc="left", fontsize=NOTE)
        log_axes(axes, 4)
        fitted = {"kind": "fitted", "forward_macs": points.n, "images": points.d, "value": points.y, "label": label}
        parts.append(pd.DataFrame(fitted))
    _first_of_rows(panels, IMAGES)
    handles: list[Any] = [
        (Line2D([], [], color="0.35", lw=0.7), Line2D([], [], color="0.75", lw=0.7, linestyle="dotted")),
        Line2D([], [], color="0.3", marker="o", ms=2.5, linestyle="none"),
    ]
    texts = [f"{name} by the law; dotted: beyond what was fitted", "fitted"]
    if any("n_low" in part for part in parts):
        handles.append((Patch(color="0.3", alpha=0.2, lw=0), Line2D([], [], color="0.3", lw=1.2)))
        texts.append(f"best size for its compute, {SURE}")
    if any(targets.get(label) for label in laws) if targets else False:
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", ms=7, linestyle="none"))
        texts.append("forecast, not measured yet")
    legend_below(figure, handles, texts, _height(laws))
    return figure, _with_notes(pd.concat(parts, ignore_index=True), laws, lines)


def iso_flop_figure(laws: Laws, name: str) -> Drawn:
    """A panel for each law: what each size comes to at a few training computes, with intervals and the minima.

    Lines are the joint law's, never parabolas through points. Points are measured, interpolated along a run between two
    budgets in log over log, never beyond.
    """
    figure, panels, looks = _panels(laws, sharey=False)
    parts, lines = [], []
    for axes, (label, made) in zip(panels, laws.items(), strict=True):
        fit, look = made.validation.fit, looks[label]
        sizes = np.geomspace(fit.points.n.min(), fit.points.n.max(), GRID // 2)
        axes.set(xscale="log", yscale="log", xlabel=GMACS)
        axes.set_title(_title(label, fit), loc="left", fontsize=NOTE)
        computes = [float(compute) for compute in _computes(fit)]
        for place, compute in enumerate(computes):
            try:
                curve = iso_flop(fit, compute, list(sizes))
            except UserError as error:
                lines.append(f"{label}: {error}")
                break
            colour, mark = shade(look.colour, place, len(computes)), look.markers[place % len(look.markers)]
            low, high = (np.clip(end, curve.value / WIDEST, curve.value * WIDEST) for end in (curve.low, curve.high))
            axes.fill_between(curve.n / 1e9, low, high, color=colour, alpha=0.15, lw=0)
            text = f"{power_text(compute, 2)} FLOPs"
            axes.plot(curve.n / 1e9, curve.value, color=colour, lw=1.0)
            measured = _at_compute(fit, compute)
            axes.plot(measured["forward_macs"] / 1e9, measured["value"], color=colour, marker=mark, ls="none", ms=3.5)
            axes.plot([], [], color=colour, lw=1.0, marker=mark, ms=3.5, label=text)
            best = curve.best
            inside = sizes[0] <= best.n.median <= sizes[-1]
            if inside:
                axes.plot(best.n.median / 1e9, best.value.median, marker="*", color="black", ms=6, zorder=5)
            of_law = {"forward_macs": curve.n, "images": curve.d, "value": curve.value}
            found = [
                pd.DataFrame({"kind": "law", **of_law, "low": curve.low, "high": curve.high}),
                measured.assign(kind="measured"),
                _minimum(best, "minimum" if inside else "minimum outside the fitted sizes"),
            ]
            parts += [part.assign(label=label, train_flops=compute) for part in found if len(part)]
        log_axes(axes, 4)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, fontsize=NOTE, columnspacing=1.0)
    _first_of_rows(panels, f"{name[:1].upper()}{name[1:]}")
    handles: list[Any] = [
        (Patch(color="0.3", alpha=0.15, lw=0), Line2D([], [], color="0.3", lw=1.0)),
        Line2D([], [], color="0.3", marker="o", ms=3.5, linestyle="none"),
        Line2D([], [], color="black", marker="*", ms=6, linestyle="none"),
    ]
    texts = [f"the law, {SURE}", "measured, between budgets", "the law's minimum"]
    legend_below(figure, handles, texts, _height(laws, ROW + 0.35), most=3)
    columns = ["kind", "label", "train_flops", "forward_macs", "images", "value", "low", "high"]
    numbers = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return figure, _with_notes(numbers, laws, lines)


def optimum_figure(laws: Laws) -> Drawn | None:
    """N*(C) and D*(C) of every law, with intervals; dotted where the best size lies outside what was fitted.

    None where no law has a best size: it shows no effect of size, or of data.
    """
    looks = _looks(laws)
    found = {label: _optima(made.validation.fit, FURTHER) for label, made in laws.items()}
    known = {label: best for label, best in found.items() if not isinstance(best, str)}
    if not known:
        return None
    figure, panels = plt.subplots(1, 2, figsize=(DOUBLE, 2.2))
    handles, texts, parts = [], [], []
    for label, best in known.items():
        fit, look = laws[label].validation.fit, looks[label]
        inside = best["forward_macs"].between(fit.points.n.min(), fit.points.n.max())
        for axes, what, middle, scale in ((panels[0], "n", "forward_macs", 1e9), (panels[1], "d", "images", 1.0)):
            reach = best[middle].min() / WIDEST, best[middle].max() * WIDEST
            low, high = (best[f"{what}_{end}"].clip(*reach) / scale for end in ("low", "high"))
            axes.fill_between(best["train_flops"], low, high, color=look.colour, alpha=0.15, lw=0)
            line = best[middle] / scale
            axes.plot(best["train_flops"], line, color=look.colour, lw=0.8, linestyle="dotted")
            axes.plot(best["train_flops"], line.where(inside), color=look.colour, lw=1.3, linestyle=look.dashes)
        exponent = optimum_exponents(fit)[0]
        ends = "{:.2f} to {:.2f}".format(*exponent.interval(LEVEL))
        handles.append(Line2D([], [], color=look.colour, lw=1.3, linestyle=look.dashes))
        texts.append(f"{label}: N* ~ C^{exponent.median:.2f} ({ends})")
        parts.append(best.assign(label=label, inside=inside))
    handles.append(Line2D([], [], color="0.3", lw=0.8, linestyle="dotted"))
    texts.append("beyond the fitted sizes")
    for axes, label in zip(panels, ("Best size N* (GMACs)", "Best number of images D*"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="Training compute C (FLOPs)", ylabel=label)
        log_axes(axes)
    legend_below(figure, handles, texts, 2.2)
    lines = [f"{label}: {best}" for label, best in found.items() if isinstance(best, str)]
    return figure, _with_notes(pd.concat(parts, ignore_index=True), laws, lines)


def residual_map(laws: Laws, name: str) -> Drawn:
    """A panel for each law: how far each measured mean lies from it, over N and D, in per cent.

    Neighbours of one colour are what a law cannot be: residuals that do not alternate say that another form is true.
    """
    figure, panels, _ = _panels(laws, sharey=True)
    parts = []
    for label, made in laws.items():
        fit = made.validation.fit
        n, d, off = (fit.points.cell_means(values) for values in (fit.points.n, fit.points.d, fit.residuals))
        part = {"label": label, "forward_macs": n, "images": d, "residual_percent": 100 * np.expm1(off)}
        parts.append(pd.DataFrame(part).assign(noise_percent=100 * fit.seed_deviation))
    numbers = pd.concat(parts, ignore_index=True)
    most = max(float(numbers["residual_percent"].abs().max()), LEAST_PERCENT)
    drawn = None
    for axes, (label, made) in zip(panels, laws.items(), strict=True):
        own, fit = numbers[numbers["label"] == label], made.validation.fit
        drawn = axes.scatter(
            own["forward_macs"] / 1e9, own["images"], c=own["residual_percent"], cmap="RdBu_r", s=42, marker="s",
            norm=TwoSlopeNorm(0, -most, most), edgecolors="0.5", linewidths=0.4,
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=GMACS)
        noise = f"{label}\nscatter {fit.scatter():.1%}, one seed {fit.seed_deviation:.1%}"
        axes.set_title(noise, loc="left", fontsize=NOTE)
        axes.margins(0.12)
        log_axes(axes, 4)
    _first_of_rows(panels, IMAGES)
    figure.set_figheight(_height(laws))
    bar = figure.colorbar(drawn, ax=panels, label=f"measured {name}\n/ law − 1 (%)", fraction=0.05)
    bar.ax.tick_params(labelsize=NOTE)
    return figure, _with_notes(numbers, laws)


def _looks(laws: Laws) -> dict[str, Look]:
    return label_looks({label: str(made.surface.rows["family"].iloc[0]) for label, made in laws.items()})


def _panels(laws: Laws, *, sharey: bool) -> tuple[Any, list[Axes], dict[str, Look]]:
    """Two in a row; one alone is half as wide."""
    rows, columns = -(-len(laws) // 2), min(2, len(laws))
    figure, grid = plt.subplots(
        rows, columns, figsize=((SINGLE, DOUBLE)[columns - 1], _height(laws)), sharey=sharey, squeeze=False
    )
    panels = list(grid.ravel())
    for empty in panels[len(laws) :]:
        empty.remove()
    return figure, panels[: len(laws)], _looks(laws)


def _height(laws: Laws, row: float = ROW) -> float:
    return row * -(-len(laws) // 2)


def _first_of_rows(panels: Sequence[Axes], label: str) -> None:
    for axes in panels[::2]:
        axes.set_ylabel(label)


def _title(label: str, fit: JointFit) -> str:
    """Whose law, and what it is not sure of."""
    told = "" if not fit.profile.untold else "; E not told"
    return f"{label}: α {fit.law.size_exponent:.2f}, β {fit.law.data_exponent:.2f}{told}"


def _level_text(value: float) -> str:
    return three_digits(float(value))


def _computes(fit: JointFit) -> np.ndarray:
    """Training FLOPs at which most sizes have been measured."""
    points = fit.points
    each = [points.compute[points.sizes == size] * FLOPS_PER_MAC for size in range(points.count)]
    low, high = np.median([one.min() for one in each]), np.median([one.max() for one in each])
    return np.geomspace(low, high, COMPUTES)


def _at_compute(fit: JointFit, compute: float) -> pd.DataFrame:
    """The measured means of each size at a compute, between its budgets in log over log."""
    points, rows = fit.points, []
    at_n, at_d, means = (points.cell_means(values) for values in (points.n, points.d, np.log(points.y)))
    for n in np.unique(at_n):
        own = at_n == n
        d = compute / (FLOPS_PER_MAC * n)
        if at_d[own].min() <= d <= at_d[own].max():
            order = np.argsort(at_d[own])
            value = np.interp(np.log(d), np.log(at_d[own][order]), means[own][order])
            rows.append({"forward_macs": n, "images": d, "value": float(np.exp(value))})
    return pd.DataFrame(rows, columns=["forward_macs", "images", "value"])


def _optima(fit: JointFit, further: float = 1.0) -> pd.DataFrame | str:
    """The best size and data over the compute that was fitted and `further` times beyond, or why there is none."""
    try:
        optimum_exponents(fit)
    except UserError as error:
        return str(error)
    fitted = fit.points.compute * FLOPS_PER_MAC
    rows = []
    for compute in np.geomspace(fitted.min(), fitted.max() * further, GRID // 2):
        size, data = (
            fit.predictive(lambda laws, at=compute, what=what: optima_of(laws, at, fit.law.form)[what])  # type: ignore[misc]
            for what in (0, 1)
        )
        row = {"train_flops": compute, "forward_macs": size.median, "images": data.median}
        row |= dict(
            zip(("n_low", "n_high", "d_low", "d_high"), (*size.interval(LEVEL), *data.interval(LEVEL)), strict=True)
        )
        rows.append({**row, "value": float(fit.law(size.median, data.median))})
    return pd.DataFrame(rows)


def _minimum(best: Optimum, kind: str) -> pd.DataFrame:
    (n_low, n_high), (low, high) = best.n.interval(LEVEL), best.value.interval(LEVEL)
    row = {"kind": kind, "forward_macs": best.n.median, "n_low": n_low, "n_high": n_high, "images": best.d.median}
    return pd.DataFrame([{**row, "value": best.value.median, "low": low, "high": high}])


def _with_notes(numbers: pd.DataFrame, laws: Laws, lines: Sequence[str] = ()) -> pd.DataFrame:
    """The numbers, with what a reader has to know of each law."""
    told = list(lines)
    for label, made in laws.items():
        untold = made.validation.fit.profile.untold
        told += [f"{label}: {note}" for note in ([f"E is not told: {untold}"] if untold else [])]
        told += [f"{label}: {note}" for note in (*made.surface.notes, *made.validation.notes)]
    numbers.attrs["left_out"] = told
    return numbers
