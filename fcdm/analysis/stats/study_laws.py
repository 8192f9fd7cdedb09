"""The laws of a study: of each model, and of each family's compute frontier; as fits, as a table, as sentences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import display_name, scales
from fcdm.analysis.stats.frontier import at_compute, fit_frontier, mean_curves
from fcdm.analysis.stats.power_law_fit import Fit, fit_power_law
from fcdm.errors import UserError


def fits_of(table: pd.DataFrame, x: str = "train_flops", y: str = "fid", **how: float) -> dict[str, Fit | str]:
    """Label -> its fit over all seeds, or the line that says why there is none. `x`, `y`: columns of a tidy table.

    `how`: `level`, `resamples`, `seed`, `huber` of `fit_power_law`.
    """
    fits: dict[str, Fit | str] = {}
    for label, rows in table.groupby("label", sort=True):
        try:
            fits[str(label)] = fit_power_law(rows[x], rows[y], list(rows["run"]), **how)  # type: ignore[arg-type]
        except UserError as error:
            fits[str(label)] = str(error)
    return fits


def frontiers_of(
    table: pd.DataFrame, x: str = "train_flops", y: str = "fid", **how: float
) -> dict[str, tuple[Fit, pd.DataFrame] | str]:
    """Family -> the frontier's fit over its models and their mean curves, or why there is none.

    Each data set and resolution has frontiers of its own: where there are several, `fcdm, 16 px`.
    """
    frontiers: dict[str, tuple[Fit, pd.DataFrame] | str] = {}
    for scale, of_scale in scales(table):
        for family, rows in of_scale.groupby("family", sort=True):
            name = f"{family}{scale}"
            try:
                frontiers[name] = fit_frontier(rows[x], rows[y], list(rows["run"]), list(rows["label"]), **how)  # type: ignore[arg-type]
            except UserError as error:
                frontiers[name] = str(error)
    return frontiers


def iso_lines(table: pd.DataFrame, x: str = "train_flops", y: str = "fid") -> list[str]:
    """For each family its best model at the largest x that every family has reached; means over seeds.

    y is interpolated between measured points, never beyond.
    """
    unit, lines = ("FLOPs" if x == "train_flops" else x), []
    known = table[np.isfinite(table[x]) & np.isfinite(table[y]) & (table[x] > 0) & (table[y] > 0)]
    for scale, of_scale in scales(known):
        curves = {
            str(family): mean_curves(rows[x], rows[y], list(rows["run"]), list(rows["label"]))
            for family, rows in of_scale.groupby("family", sort=True)
        }
        curves = {family: curve for family, curve in curves.items() if len(curve)}
        if not curves:
            continue
        common = min(float(curve["x"].max()) for curve in curves.values())
        for family, curve in curves.items():
            head = f"{display_name('', family).rstrip('-')}{scale} at {common:.3g} {unit}"
            there = at_compute(curve, [common]).sort_values("fid")
            if there.empty:
                lines.append(f"{head}: no model was measured on both sides")
                continue
            each = [f"{row.model} {row.fid:.4g}" for row in there.itertuples()]
            others = f" (then {', '.join(each[1:])})" if len(each) > 1 else ""
            lines.append(f"{head}: lowest {y} {there['fid'].iloc[0]:.4g}, {there['model'].iloc[0]}{others}")
    return lines


def fits_table(fits: Mapping[str, Fit | str]) -> pd.DataFrame:
    """One row per fit: the numbers, their intervals, the range, the scatter, and what a reader has to know."""
    rows = []
    for label, fit in fits.items():
        row: dict[str, object] = {"label": label}
        if isinstance(fit, str):
            rows.append({**row, "notes": fit})
            continue
        for name, value in (("offset", fit.law.offset), ("scale", fit.law.scale), ("exponent", fit.law.exponent)):
            low, high = fit.intervals.get(name, (np.nan, np.nan))
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        row |= {"level": fit.level, "from": fit.range[0], "to": fit.range[1], "points": len(fit.x)}
        row |= {"rms_residual": float(np.sqrt(np.mean(fit.residuals**2)))}
        rows.append({**row, "notes": "; ".join([*fit.notes, *([fit.no_interval] if fit.no_interval else [])])})
    columns = ["label"]
    for name in ("offset", "scale", "exponent"):
        columns += [name, f"{name}_low", f"{name}_high"]
    return pd.DataFrame(rows, columns=[*columns, "level", "from", "to", "points", "rms_residual", "notes"])


def ends_text(low: float, high: float) -> str:
    """`1.298 to 1.304`: three digits, and as many more (six in all) as it takes to tell how wide it is."""
    largest, width = max(abs(low), abs(high)), high - low
    digits = 3
    if width > 0 and np.isfinite(largest):
        digits = int(np.clip(2 + np.floor(np.log10(largest)) - np.floor(np.log10(width)), 3, 6))
    return " to ".join(f"{end:#.{digits}g}".rstrip(".") for end in (low, high))


def law_sentence(label: str, fit: Fit | str, x: str = "train_flops", y: str = "fid") -> str:
    """`FCDM-N: fid = 4.1 + 35 x^-1.3 (alpha 1.2 to 1.4 ...)`: the law in words, or why there is none."""
    if isinstance(fit, str):
        return f"{label}: no fit: {fit}."
    unit = "FLOPs" if x == "train_flops" else x
    low, high = fit.range
    offset = f"{fit.law.offset:.4g} + " if fit.law.offset else ""
    text = f"{label}: {y} = {offset}{fit.law.scale:.4g} ({unit})^-{fit.law.exponent:.3g}"
    ends = fit.intervals
    if ends:
        of_offset = f"E {ends_text(*ends['offset'])}" if "offset" in ends else "E not told by these points"
        text += f"; {fit.level:.0%} interval: {of_offset}, alpha {ends_text(*ends['exponent'])}"
    scatter = float(np.sqrt(np.mean(fit.residuals**2)))
    rest = [f"{low:.3g} to {high:.3g} {unit}", f"{len(fit.x)} points", f"scatter {scatter:.1%}"]
    return f"{text} ({', '.join([*rest, *filter(None, [fit.no_interval]), *fit.notes])})."
