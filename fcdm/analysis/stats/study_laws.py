"""The laws of a study: of each model, and of each family's compute frontier; as fits, as a table, as sentences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import family_name, metric_name, scales, trajectories
from fcdm.analysis.stats.frontier import at_compute, curves_of, measured_table
from fcdm.analysis.stats.frontier_fit import Frontier, fit_frontier
from fcdm.analysis.stats.measured_points import Points
from fcdm.analysis.stats.power_law_fit import Fit, fit_power_law
from fcdm.errors import UserError
from fcdm.formatting import plural


def fits_of(table: pd.DataFrame, x: str = "train_flops", y: str = "fid", **how: float) -> dict[str, Fit | str]:
    """Label -> its fit over all seeds, or the line that says why there is none. `x`, `y`: columns of a tidy table.

    `how`: `level`, `resamples`, `seed`, `huber` of `fit_power_law`. Whether a fit may be told: `law_or_reason`.
    """
    fits: dict[str, Fit | str] = {}
    for label, rows in table.groupby("label", sort=False):
        try:
            fits[str(label)] = fit_power_law(rows[x], rows[y], trajectories(rows), **how)  # type: ignore[arg-type]
        except UserError as error:
            fits[str(label)] = str(error)
    return fits


def frontiers_of(table: pd.DataFrame, x: str = "train_flops", y: str = "fid", **how: float) -> dict[str, Frontier]:
    """Family -> its frontier over its models.

    Each of `scales` has frontiers of its own: `fcdm, 16 px`, and of cooled points `fcdm, cooled 20 %`.
    """
    return {
        f"{family}{scale}": fit_frontier(rows[x], rows[y], trajectories(rows), list(rows["label"]), **how)  # type: ignore[arg-type]
        for scale, of_scale in scales(table)
        for family, rows in of_scale.groupby("family", sort=True)
    }


def law_or_reason(made: Fit | str | Frontier) -> Fit | str:
    """The law, where the points tell one, or why they do not: what every table, sentence and figure goes by."""
    law = made.law if isinstance(made, Frontier) else made
    return law.no_law or law if isinstance(law, Fit) else law


def iso_lines(table: pd.DataFrame, x: str = "train_flops", y: str = "fid") -> list[str]:
    """For each family its best model at the largest x that every family has reached; means over seeds.

    y is interpolated between measured points, never beyond, as for the frontier.
    """
    unit, lines = ("FLOPs" if x == "train_flops" else x), []
    known = table[np.isfinite(table[x]) & np.isfinite(table[y]) & (table[x] > 0) & (table[y] > 0)]
    for scale, of_scale in scales(known):
        curves = {str(family): _measured(rows, x, y) for family, rows in of_scale.groupby("family", sort=True)}
        curves = {family: curve for family, curve in curves.items() if len(curve)}
        if not curves:
            continue
        common = min(float(curve["x"].max()) for curve in curves.values())
        for family, curve in curves.items():
            head = f"{family_name(family)}{scale} at {common:.3g} {unit}"
            there = at_compute(curve, [common]).sort_values("fid")
            if there.empty:
                lines.append(f"{head}: no model was measured on both sides")
                continue
            each = [f"{row.model} {row.fid:.4g}" for row in there.itertuples()]
            others = f" (then {each[1]})" if len(each) > 1 else ""
            best = str(there["model"].iloc[0])
            ended = float(curve.loc[curve["model"] == best, "x"].max()) <= common * (1 + 1e-9)
            at_end = " at its last budget" if ended else ""
            lines.append(f"{head}: lowest {metric_name(table, y)} {there['fid'].iloc[0]:.4g}, {best}{at_end}{others}")
    return lines


def _measured(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    return measured_table(curves_of(Points.checked(rows[x], rows[y], trajectories(rows), list(rows["label"])))[0])


def fits_table(laws: Mapping[str, Fit | str | Frontier]) -> pd.DataFrame:
    """One row per law: the numbers, their intervals, the range, the scatter, and what a reader has to know.

    What the points do not tell has no numbers, only the reason in `notes`; an E that is only below something has none.
    """
    rows = []
    for label, made in laws.items():
        law, notes = law_or_reason(made), list(_notes(made))
        row: dict[str, object] = {"label": label}
        if isinstance(law, str):
            rows.append({**row, "notes": "; ".join([f"no law: {law}", *notes])})
            continue
        offset = law.law.offset if law.tells_offset else np.nan
        for name, value in (("offset", offset), ("scale", law.law.scale), ("exponent", law.law.exponent)):
            low, high = law.intervals.get(name, (np.nan, np.nan))
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        row |= {"level": law.level, "from": law.range[0], "to": law.range[1], "points": law.points}
        row |= {"scatter": law.scatter}
        rows.append({**row, "notes": "; ".join(notes)})
    columns = ["label"]
    for name in ("offset", "scale", "exponent"):
        columns += [name, f"{name}_low", f"{name}_high"]
    return pd.DataFrame(rows, columns=[*columns, "level", "from", "to", "points", "scatter", "notes"])


def _notes(made: Fit | str | Frontier) -> tuple[str, ...]:
    """What a reader has to know beside a law or the reason against it."""
    if isinstance(made, Frontier):
        return (*(_notes(made.law) if isinstance(made.law, Fit) else ()), *made.notes)
    if isinstance(made, str):
        return ()
    return tuple(note for note in (made.no_interval if not made.no_law else "", *made.notes) if note)


def offset_text(law: Fit) -> str:
    """`4.1 (3.9 to 4.3)`; `below 3.9` or `not told` where the points tell no more, as ever without intervals."""
    ends = law.intervals.get("offset")
    if ends is None:
        return "not told"
    return f"{law.law.offset:.3g} ({ends_text(*ends)})" if law.tells_offset else f"below {ends[1]:.3g}"


def ends_text(low: float, high: float) -> str:
    """`1.298 to 1.304`: three digits, and as many more (six in all) as it takes to tell how wide it is."""
    largest, width = max(abs(low), abs(high)), high - low
    digits = 3
    if width > 0 and np.isfinite(largest):
        digits = int(np.clip(2 + np.floor(np.log10(largest)) - np.floor(np.log10(width)), 3, 6))
    return " to ".join(f"{end:#.{digits}g}".rstrip(".") for end in (low, high))


def family_frontier(family: str) -> str:
    """`FCDM's frontier`, `DiT's frontier, 16 px`, for a key of `frontiers_of`."""
    name, comma, scale = family.partition(",")
    return f"{family_name(name)}'s frontier{comma}{scale}"


def law_sentences(laws: Mapping[str, Fit | str | Frontier], x: str = "train_flops", distance: str = "FID") -> list[str]:
    """`law_sentence` of each; settings that have no law for one same reason make one sentence."""
    by_reason: dict[str, list[str]] = {}
    for label, made in laws.items():
        by_reason.setdefault(law_sentence("", made, x, distance), []).append(label)
    told = []
    for text, labels in by_reason.items():
        many = len(labels) > MOST_NAMED
        told.append(f"{plural(len(labels), 'setting') if many else ', '.join(labels)}{text}")
    return told


MOST_NAMED = 4
"""More settings than this are told as a number where one sentence is true of them all."""


def law_sentence(label: str, made: Fit | str | Frontier, x: str = "train_flops", distance: str = "FID") -> str:
    """`FCDM-N: FID = 4.1 + 35 (steps)^-1.3; ...`: the law in words, or why there is none. E is a number where told."""
    law, notes = law_or_reason(made), _notes(made)
    if isinstance(law, str):
        return f"{label}: no law: {'; '.join([law, *notes])}."
    unit = "FLOPs" if x == "train_flops" else x
    low, high = law.range
    offset = (f"{law.law.offset:.4g} + " if law.tells_offset else "E + ") if law.law.offset else ""
    text = f"{label}: {distance} = {offset}{law.law.scale:.4g} ({unit})^-{law.law.exponent:.3g}"
    ends = law.intervals
    if not ends and offset:
        text += "; E not told"
    if ends:
        text += f"; {law.level:.0%} intervals: E {offset_text(law)}, alpha {ends_text(*ends['exponent'])}"
    rest = [f"{low:.3g} to {high:.3g} {unit}", plural(law.points, "point"), f"scatter {law.scatter:.1%}"]
    return f"{text} ({'; '.join([*rest, *notes])})."
