"""Forms of FID over size against tables that others published: what was fitted, and what it says of sizes held out.

For `docs/forecast.md` and `analysis/forecast.ipynb`: the same tables and sentences, none of their numbers by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.reporting.cell_tables import MISSING, Cell, CellTable, Value, number
from fcdm.analysis.reporting.markdown import markdown_table
from fcdm.analysis.stats.claim_sides import remeasured
from fcdm.analysis.stats.published_law import (
    BUDGET,
    OF_LINES,
    OF_TWO_FACTORS,
    ONE_DATA_SIZE,
    RESOLUTION,
    SizeLaw,
    a_line_each,
    hold_outs,
    measured_again,
    on_macs_alone,
    product,
    sizes_at_one_budget,
    sum_of_powers,
)
from fcdm.analysis.stats.told_law import MOST_SCATTER, why_untold_without_seeds
from fcdm.formatting import plural, steps_text

MINUS = "−"
FORMULAS = {
    "a line each": "A·MACs^-alpha, A and alpha of each patch size",
    "sum of powers": "E + A·parameters^-a + B·tokens^-b",
    "product": "C·parameters^-a·tokens^-b",
    "MACs alone": "A·MACs^-alpha",
}
CUTS = {1: "the largest size", 2: "the two largest sizes"}
AT = f"{steps_text(BUDGET)} steps of 256 images, {RESOLUTION} px"
CROSSED = "dit"
"""The family whose table crosses sizes with patch sizes."""


def line_table(table: pd.DataFrame) -> CellTable:
    """The power law of MACs of each line of sizes. `table`: of `sizes_at_one_budget`, as everywhere here."""
    rows: list[list[Cell]] = []
    for _, family in table.groupby("family", sort=False):
        law = a_line_each(family)
        halves = law.halves()
        for line, members in family.groupby("line", sort=False):
            scale, alpha = law.numbers[f"log A, {line}"], f"alpha, {line}"
            numbers = [Value(float(np.exp(scale))), Value(law.numbers[alpha], halves.get(alpha))]
            rows.append([str(line), ", ".join(members["size"]), *numbers, percent(law.scatter), str(law.freedom)])
    lengths = sorted(set(table.groupby("line").size()), reverse=True)
    untold = "; ".join(why_untold_without_seeds(length, True) for length in lengths)
    notes = (
        "Least squares of log FID. A: FID at 1 GMAC. ±: half of the 95 % interval, Student's t. Scatter (of log FID) "
        "and degrees of freedom are those of all lines of a family together.",
        f"With an offset, E + A·GMACs^-alpha, no law is told: {untold}.",
    )
    columns = ("Line", "Sizes", "A", "alpha", "Scatter", "Degrees of freedom")
    caption = f"FID = A·GMACs^-alpha at {AT}"
    return CellTable("published_lines", caption, columns, rows, notes, texts=frozenset({0, 1}))


def form_table(table: pd.DataFrame) -> CellTable:
    """The forms for all models of DiT's table at once: how many numbers each has, and how far it misses."""
    crossed = table[table["family"] == CROSSED]
    rows: list[list[Cell]] = []
    for name, fit in {"a line each": a_line_each, **OF_TWO_FACTORS}.items():
        law = fit(crossed)
        free = len(crossed) - law.freedom
        told = "in the table above" if name == "a line each" else _numbers(law)
        untold = f"no law: more than {MOST_SCATTER:.0%}".replace("%", " %") if law.scatter > MOST_SCATTER else ""
        rows.append([name, FORMULAS[name], str(free), str(law.freedom), percent(law.scatter), untold or told])
    notes = (
        "Parameters in hundreds of millions, tokens in hundreds, MACs in 1e9. E counts where it is fitted above 0.",
    )
    columns = ("Form", "FID", "Numbers", "Degrees of freedom", "Scatter", "Fitted")
    return CellTable(
        "published_forms",
        f"DiT's {plural(len(crossed), 'model')} at once, at {AT}",
        columns,
        rows,
        notes,
        texts=frozenset({0, 1, 5}),
    )


def _numbers(law: SizeLaw) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in law.numbers.items())


def hold_out_table(found: pd.DataFrame) -> CellTable:
    """What each form says of sizes that it was not fitted to. `found`: of `hold_outs`."""
    forms = ["a line each", *OF_TWO_FACTORS, "last two", "last value"]
    rows: list[list[Cell]] = []
    for _, of_model in found.groupby("model", sort=False):
        first, errors = of_model.iloc[0], of_model.set_index("form")["error"]
        cells = [signed(errors[form]) if form in errors else MISSING for form in forms]
        rows.append([str(first["model"]), Value(float(first["measured"])), f"{first['further']:.1f}×", *cells])
    crossed = found[found["family"] == CROSSED].groupby("form")
    every = found[found["form"].isin(OF_LINES)].groupby("form")
    for name, groups in (("DiT's: root mean square", crossed), ("all: root mean square", every)):
        squares = {str(form): percent(_rms(rows_["error"])) for form, rows_ in groups}
        rows.append([name, "", "", *(squares.get(form, MISSING) for form in forms)])
    inside = {str(form): _inside(of_form) for form, of_form in crossed}
    rows.append(["DiT's: inside the 95 % interval", "", "", *(inside[form] for form in forms)])
    notes = (
        "Error: predicted over measured FID, less 1. Further: MACs over those of the largest size that was fitted. The "
        "intervals are those of one new model, Student's t; ×÷ says how far the middle one reaches. A form that goes "
        "through all that it was fitted to has none.",
    )
    columns = ("Held out", "FID", "Further", *forms)
    caption = f"Fitted without {_without(found)} of each line, at {AT}"
    name = f"published_without_{found['largest'].iloc[0]}"
    return CellTable(name, caption, columns, rows, notes, texts=frozenset({0}))


def _inside(of_form: pd.DataFrame) -> str:
    """`3 of 3, ×÷1.4`: how many measured FIDs lie in their intervals, and how far the middle one reaches, a factor."""
    if not of_form["freedom"].min():
        return "none"
    within = of_form["measured"].between(of_form["low"], of_form["high"])
    reach = float(np.sqrt((of_form["high"] / of_form["low"]).median()))
    return f"{within.sum()} of {len(within)}, ×÷{reach:.2g}"


def findings(table: pd.DataFrame, outs: Sequence[pd.DataFrame]) -> list[str]:
    """What came out, in sentences that follow the numbers. `outs`: `hold_outs` of each of CUTS."""
    crossed = table[table["family"] == CROSSED]
    told = [_noise(outs[0]), _slopes(a_line_each(crossed)), *map(_lines_held_out, outs), _pooled(crossed, outs)]
    return [*told, _factors(crossed, outs), ONE_DATA_SIZE]


def _noise(found: pd.DataFrame) -> str:
    """How far two public measurements of one model lie apart, and what that does to an error of a line."""
    apart, _ = remeasured()
    again = [f"{model} ({', '.join(f'{fid:g}' for fid in fids)})" for model, fids in measured_again().items()]
    return (
        f"Measured by several, at {AT}: {' and '.join(again)}. Two public runs of one model lie up to {percent(apart)} "
        f"apart: a single error below that tells nothing{''.join(_against_others(found))}."
    )


def _against_others(found: pd.DataFrame) -> Iterator[str]:
    """The errors of lines, of models held out that were measured again: against the other measurements."""
    for row in found[found["form"] == "a line each"].to_dict("records"):
        others = [fid for fid in measured_again().get(row["model"], []) if fid != row["measured"]]
        for fid in others:
            now = signed(row["fid"] / fid - 1)
            yield f"; against {fid:g} the line's error of {row['model']} is {now} instead of {signed(row['error'])}"


def _slopes(law: SizeLaw) -> str:
    """The exponents of DiT's patch sizes, and whether they can be one."""
    halves = law.halves()
    names = [name for name in law.numbers if name.startswith("alpha")]
    told = ", ".join(f"{Value(law.numbers[name], halves[name])} ({name.split(', ')[1]})" for name in names)
    ends = [(law.numbers[name] - halves[name], law.numbers[name] + halves[name]) for name in names]
    overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
    meet = "have a value in common" if overlap else "have no value in common: one exponent does not fit all patch sizes"
    return f"FID falls with MACs by an exponent of {told}; these 95 % intervals {meet}."


def _lines_held_out(found: pd.DataFrame) -> str:
    """The lines beside both baselines, of every line of sizes."""
    by_form = {form: _errors(found, form) for form in OF_LINES}
    told = ", ".join(f"{form} {span(errors)} ({percent(_rms(errors))})" for form, errors in by_form.items())
    lines, last_two = by_form["a line each"], by_form["last two"]
    other = ~np.isclose(lines, last_two)
    nearer = int((lines.abs() < last_two.abs())[other].sum())
    beside = "The line is the one through the last two points"
    if other.any():
        beside = f"Where the line is not the one through the last two points it is nearer for {nearer} of {other.sum()}"
    beside += f"; it is too high for {(lines > 0).sum()} of {len(lines)}"
    further, sizes = found["further"], plural(found["model"].nunique(), "model")
    return (
        f"Fitted without {_without(found)}: {sizes}, of {further.min():.1f}× to {further.max():.1f}× the MACs of "
        f"the largest fitted one, are off by (root mean square in brackets) {told}. {beside}."
    )


def _pooled(crossed: pd.DataFrame, outs: Sequence[pd.DataFrame]) -> str:
    """What pooling on MACs alone does."""
    of_form = outs[0][outs[0]["form"] == "MACs alone"]
    each = ", ".join(f"{row.model} {signed(float(str(row.error)))}" for row in of_form.itertuples())
    return (
        "About one line over MACs for all patch sizes DiT's models scatter by "
        f"{percent(on_macs_alone(crossed).scatter)}; fitted without {_without(outs[0])}: {each}."
    )


def _factors(crossed: pd.DataFrame, outs: Sequence[pd.DataFrame]) -> str:
    """The two forms of parameters and tokens, all models and held out."""
    told = []
    laws = {"sum of powers": sum_of_powers(crossed), "product": product(crossed)}
    for form, law in laws.items():
        off = [f"{span(_errors(found, form))} without {_without(found)}" for found in outs]
        told.append(f"about the {form} they scatter by {percent(law.scatter)}, and it is off by {' and '.join(off)}")
    offset = laws["sum of powers"].numbers["E"]
    return f"Of parameters and tokens: {'; '.join(told)}. The sum's E is fitted as {number(offset)}."


def published_part() -> str:
    """The section of `docs/forecast.md`, in Markdown."""
    table = sizes_at_one_budget()
    outs = [hold_outs(table, largest) for largest in CUTS]
    tables = [line_table(table), form_table(table), *map(hold_out_table, outs)]
    said = "\n".join(f"- {line}" for line in findings(table, outs))
    return "\n\n".join([said, *map(markdown_table, tables)])


def percent(share: float) -> str:
    """`7.0 %`, `25 %`: two digits; `none` of NaN."""
    if not np.isfinite(share):
        return "none"
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def signed(error: float) -> str:
    """`+5.7 %`, `−39 %`."""
    return f"{MINUS if error < 0 else '+'}{percent(abs(error))}"


def span(errors: Iterable[float]) -> str:
    """`−11 % to +5.7 %`."""
    numbers = list(errors)
    return f"{signed(min(numbers))} to {signed(max(numbers))}"


def _without(found: pd.DataFrame) -> str:
    return CUTS[int(found["largest"].iloc[0])]


def _errors(found: pd.DataFrame, form: str) -> pd.Series:
    return found.loc[found["form"] == form, "error"].reset_index(drop=True)


def _rms(errors: pd.Series) -> float:
    return float(np.sqrt((errors**2).mean()))
