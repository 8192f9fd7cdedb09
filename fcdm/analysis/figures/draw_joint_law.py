"""A joint law L(N, D) as pictures: its contours with the best sizes, iso-FLOP curves, N*(C), and what it misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcdm.analysis.data.labels import family_name
from fcdm.analysis.figures.axes import NOTE, Drawn, legend_below, log_axes
from fcdm.analysis.figures.styles import DOUBLE, Look, family_looks, shade
from fcdm.formatting import three_digits
from fcdm.laws.compute_optimal import iso_flop, optimum, optimum_exponents
from fcdm.laws.hold_outs import Validation
from fcdm.laws.joint_fit import LEVEL, JointFit
from fcdm.laws.joint_law import FLOPS_PER_MAC

Validations = Mapping[str, Validation]
"""Family -> its law and what was held out of it. Sizes are in forward MACs."""

GRID = 60
"""Places along each axis where a law is computed."""
BEYOND = 1.6
"""How far, as a factor, contours go on beyond what was fitted."""
LINES = 8
"""Contours."""
COMPUTES = 4
"""Iso-FLOP curves of a family."""
ABOVE = 0.6
"""Room over iso-FLOP curves for their legend, as a share of what they span."""
SURE = f"{100 * LEVEL:.0f} %"
GMACS = "Forward pass N (GMACs)"
IMAGES = "Training images D"


def contour_figure(laws: Validations, name: str, targets: Mapping[str, tuple[float, float]] | None = None) -> Drawn:
    """A panel for each family: contours of the law over N and D, what was fitted, and N*(C), D*(C) with its interval.

    `name`: of what the law is of, `FID`. `targets`: family -> (N in MACs, D) of what is forecast, drawn hollow. Beyond
    the fitted points contours are dotted.
    """
    figure, panels, looks = _panels(laws, 2.6)
    parts = []
    for axes, (family, one) in zip(panels, laws.items(), strict=True):
        points, look = one.fit.points, looks[family]
        target = (targets or {}).get(family)
        n = np.geomspace(points.n.min() / BEYOND, max(points.n.max(), target[0] if target else 0) * BEYOND, GRID)
        d = np.geomspace(points.d.min() / BEYOND, max(points.d.max(), target[1] if target else 0) * BEYOND, GRID)
        values = one.fit.law(n[None], d[:, None])
        levels = np.geomspace(values.min(), values.max(), LINES + 2)[1:-1]
        inside = (n[None] <= points.n.max() * 1.001) & (n[None] >= points.n.min() * 0.999)
        inside = inside & (d[:, None] <= points.d.max() * 1.001) & (d[:, None] >= points.d.min() * 0.999)
        axes.contour(n / 1e9, d, values, levels, colors=["0.75"], linewidths=0.7, linestyles="dotted")
        lines = axes.contour(n / 1e9, d, np.where(inside, values, np.nan), levels, colors=["0.35"], linewidths=0.7)
        axes.clabel(lines, fmt=three_digits, fontsize=NOTE)
        axes.plot(points.n / 1e9, points.d, color=look.colour, marker=look.markers[0], linestyle="none", ms=3)
        best = _optima(one.fit)
        axes.fill_betweenx(
            best["images"], best["n_low"] / 1e9, best["n_high"] / 1e9, color=look.colour, alpha=0.2, lw=0
        )
        axes.plot(best["forward_macs"] / 1e9, best["images"], color=look.colour, lw=1.2, linestyle=look.dashes)
        if target:
            axes.plot(target[0] / 1e9, target[1], **{**look.hollow, "linestyle": "none"}, markersize=7)
        axes.set(xscale="log", yscale="log", xlabel=GMACS, xlim=(n[0] / 1e9, n[-1] / 1e9), ylim=(d[0], d[-1]))
        axes.set_title(_title(family, one), loc="left", fontsize=NOTE)
        log_axes(axes, 4)
        parts += [
            pd.DataFrame({"kind": "fitted", "forward_macs": points.n, "images": points.d, "value": points.y}),
            best.assign(kind="optimum"),
        ]
        if target:
            value = float(one.fit.law(*target))
            parts.append(
                pd.DataFrame([{"kind": "target", "forward_macs": target[0], "images": target[1], "value": value}])
            )
        parts[:] = [part if "family" in part else part.assign(family=family) for part in parts]
    panels[0].set_ylabel(IMAGES)
    handles: list[Any] = [
        Line2D([], [], color="0.35", lw=0.7),
        Line2D([], [], color="0.3", marker="o", ms=3, linestyle="none"),
        (Patch(color="0.3", alpha=0.2, lw=0), Line2D([], [], color="0.3", lw=1.2)),
    ]
    texts = [f"{name} as the law says (dotted: beyond what was fitted)", "fitted", f"best size for its compute, {SURE}"]
    if targets:
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", ms=7, linestyle="none"))
        texts.append("forecast, not fitted")
    legend_below(figure, handles, texts, 2.6)
    return figure, _with_notes(pd.concat(parts, ignore_index=True), laws)


def iso_flop_figure(laws: Validations, name: str) -> Drawn:
    """A panel for each family: what each size comes to at a few training computes, with intervals and the minima.

    Lines are the joint law's, never parabolas through points. Points are measured, interpolated along a run between two
    budgets in log over log, never beyond.
    """
    figure, panels, looks = _panels(laws, 2.4)
    parts = []
    for axes, (family, one) in zip(panels, laws.items(), strict=True):
        computes = _computes(one.fit)
        sizes = np.geomspace(one.fit.points.n.min(), one.fit.points.n.max(), GRID // 2)
        for place, compute in enumerate(computes):
            curve = iso_flop(one.fit, float(compute), list(sizes))
            colour, marker = shade(looks[family].colour, place, len(computes)), looks[family].markers
            mark = marker[place % len(marker)]
            axes.fill_between(curve.n / 1e9, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
            axes.plot(curve.n / 1e9, curve.value, color=colour, lw=1.0, label=f"{compute:.2g} FLOPs")
            measured = _at_compute(one.fit, float(compute))
            axes.plot(
                measured["forward_macs"] / 1e9, measured["value"], color=colour, marker=mark, linestyle="none", ms=3.5
            )
            best = curve.best
            inside = sizes[0] <= best.n.median <= sizes[-1]
            if inside:
                axes.plot(best.n.median / 1e9, best.value.median, marker="*", color="black", ms=6, zorder=5)
            parts += [
                pd.DataFrame(
                    {"kind": "law", "forward_macs": curve.n, "images": curve.d, "value": curve.value, "low": curve.low,
                     "high": curve.high}
                ),
                measured.assign(kind="measured"),
                _row(best, "minimum" if inside else "minimum outside the fitted sizes"),
            ]  # fmt: skip
            parts[-3:] = [part.assign(family=family, train_flops=compute) for part in parts[-3:]]
        axes.set(xscale="log", yscale="log", xlabel=GMACS)
        axes.set_title(_title(family, one), loc="left", fontsize=NOTE)
        axes.legend(loc="upper right", fontsize=NOTE, handlelength=1.0)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * (high / low) ** ABOVE)
    for axes in panels:
        log_axes(axes, 4)
    panels[0].set_ylabel(name)
    handles: list[Any] = [
        (Patch(color="0.3", alpha=0.15, lw=0), Line2D([], [], color="0.3", lw=1.0)),
        Line2D([], [], color="0.3", marker="o", ms=3.5, linestyle="none"),
        Line2D([], [], color="black", marker="*", ms=6, linestyle="none"),
    ]
    legend_below(figure, handles, [f"the law, {SURE}", "measured, between budgets", "the law's minimum"], 2.4, most=3)
    return figure, _with_notes(pd.concat(parts, ignore_index=True), laws)


def optimum_figure(laws: Validations) -> Drawn:
    """N*(C) and D*(C) of every family, with intervals; dotted where the best size lies outside what was fitted."""
    looks = family_looks(laws)
    figure, panels = plt.subplots(1, 2, figsize=(DOUBLE, 2.2))
    handles, texts, parts = [], [], []
    for family, one in laws.items():
        best, look = _optima(one.fit, wide=10.0), looks[family]
        inside = best["forward_macs"].between(one.fit.points.n.min(), one.fit.points.n.max())
        for axes, what, scale in ((panels[0], "n", 1e9), (panels[1], "d", 1.0)):
            middle = best["forward_macs" if what == "n" else "images"] / scale
            axes.fill_between(
                best["train_flops"], best[f"{what}_low"] / scale, best[f"{what}_high"] / scale, color=look.colour,
                alpha=0.15, lw=0,
            )  # fmt: skip
            axes.plot(best["train_flops"], middle, color=look.colour, lw=0.8, linestyle="dotted")
            axes.plot(best["train_flops"], middle.where(inside), color=look.colour, lw=1.3, linestyle=look.dashes)
        exponent = optimum_exponents(one.fit)[0]
        low, high = exponent.interval(LEVEL)
        handles.append(Line2D([], [], color=look.colour, lw=1.3, linestyle=look.dashes))
        texts.append(f"{family_name(family)}: N* ~ C^{exponent.median:.2f} ({low:.2f} to {high:.2f})")
        parts.append(best.assign(family=family, inside=inside))
    for axes, label in zip(panels, ("Best size N* (GMACs)", "Best number of images D*"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="Training compute C (FLOPs)", ylabel=label)
        log_axes(axes)
    legend_below(figure, handles, texts, 2.2)
    return figure, _with_notes(pd.concat(parts, ignore_index=True), laws)


def residual_map(laws: Validations, name: str) -> Drawn:
    """A panel for each family: how far each measured mean lies from the law, over N and D, in per cent.

    Neighbours of one colour are what a law cannot be: residuals that do not alternate say that another form is true.
    """
    figure, panels, _ = _panels(laws, 2.4)
    parts = []
    for family, one in laws.items():
        points = one.fit.points
        places = {what: points.cell_means(getattr(points, what)) for what in ("n", "d")}
        percent = 100 * np.expm1(points.cell_means(one.fit.residuals))
        part = {"family": family, "forward_macs": places["n"], "images": places["d"], "residual_percent": percent}
        parts.append(pd.DataFrame(part).assign(noise_percent=100 * one.fit.seed_deviation))
    numbers = pd.concat(parts, ignore_index=True)
    most = max(float(numbers["residual_percent"].abs().max()), 1e-9)
    drawn = None
    for axes, (family, one) in zip(panels, laws.items(), strict=True):
        own = numbers[numbers["family"] == family]
        drawn = axes.scatter(
            own["forward_macs"] / 1e9, own["images"], c=own["residual_percent"], cmap="RdBu_r", s=42, marker="s",
            norm=TwoSlopeNorm(0, -most, most), edgecolors="0.5", linewidths=0.4,
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=GMACS)
        noise = f"scatter {one.fit.scatter:.1%}, one seed {one.fit.seed_deviation:.1%}"
        axes.set_title(f"{family_name(family)}: {noise}", loc="left", fontsize=NOTE)
        axes.margins(0.12)
        log_axes(axes, 4)
    panels[0].set_ylabel(IMAGES)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(panels), label=f"measured {name} / law - 1 (%)", fraction=0.05)
    return figure, _with_notes(numbers, laws)


def _panels(laws: Validations, height: float) -> tuple[Any, list[Axes], dict[str, Look]]:
    figure, grid = plt.subplots(1, len(laws), figsize=(DOUBLE, height), sharey=True, squeeze=False)
    return figure, list(grid[0]), family_looks(laws)


def _title(family: str, one: Validation) -> str:
    """Whose law, and what it is not sure of."""
    told = "" if not one.fit.profile.untold else "; E not told"
    return f"{family_name(family)}: α {one.fit.law.size_exponent:.2f}, β {one.fit.law.data_exponent:.2f}{told}"


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


def _optima(fit: JointFit, wide: float = 1.0) -> pd.DataFrame:
    """The best size over the compute that was fitted, and `wide` times beyond."""
    compute = fit.points.compute * FLOPS_PER_MAC
    places = np.geomspace(compute.min(), compute.max() * wide, GRID // 2)
    return pd.concat([_row(optimum(fit, float(at)), "").drop(columns="kind") for at in places], ignore_index=True)


def _row(best: Any, kind: str) -> pd.DataFrame:
    (n_low, n_high), (d_low, d_high) = best.n.interval(LEVEL), best.d.interval(LEVEL)
    row = {"kind": kind, "train_flops": best.compute, "forward_macs": best.n.median, "n_low": n_low, "n_high": n_high}
    row |= {"images": best.d.median, "d_low": d_low, "d_high": d_high, "value": best.value.median}
    low, high = best.value.interval(LEVEL)
    return pd.DataFrame([{**row, "low": low, "high": high}])


def _with_notes(numbers: pd.DataFrame, laws: Validations) -> pd.DataFrame:
    """The numbers, with what a reader has to know of each law."""
    lines = []
    for family, one in laws.items():
        untold = one.fit.profile.untold
        lines += [f"{family_name(family)}: {note}" for note in ([f"E is not told: {untold}"] if untold else [])]
        lines += [f"{family_name(family)}: {note}" for note in one.notes]
    numbers.attrs["left_out"] = lines
    return numbers
