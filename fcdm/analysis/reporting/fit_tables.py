"""The laws of a study as a table: FID = E + A x^-alpha for each model and for the frontier of each family."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import display_name
from fcdm.analysis.data.scales import scales
from fcdm.analysis.reporting.cell_tables import MISSING, Cell, CellTable, number
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import ends_text, fits_of, fits_table, frontiers_of

AXES = (("train_pflops", "training PFLOPs"), ("steps", "training steps"))


def fit_tables(table: pd.DataFrame, protocol: str) -> list[CellTable]:
    """One table for each axis; models without a fit stand in it with the reason."""
    return [_fit_table(table, axis, x_text, protocol) for axis, x_text in AXES]


def _fit_table(table: pd.DataFrame, axis: str, x_text: str, protocol: str) -> CellTable:
    laws: dict[str, Fit | str] = dict(fits_of(table, axis))
    for scale, rows_of in scales(table):
        for family, made in frontiers_of(rows_of, axis).items():
            name = f"frontier of {display_name('', family).rstrip('-')}{scale}"
            laws[name] = made if isinstance(made, str) else made[0]
    rows: list[list[Cell]] = []
    notes = [
        "Robust fit; intervals (95 %) from whole runs drawn anew. Residual: root mean square of log FID over the law. "
        "Outside its range a law says nothing."
    ]
    for row in fits_table(laws).to_dict("records"):
        label = str(row["label"])
        if not isinstance(laws[label], Fit):
            rows.append([label, *[MISSING] * 5])
        else:
            numbers = [_ended(row, name) for name in ("offset", "scale", "exponent")]
            rows.append([label, *numbers, f"{row['from']:.3g} to {row['to']:.3g}", f"{row['rms_residual']:.1%}"])
        if row["notes"]:
            notes.append(f"{label}: {row['notes']}.")
    columns = ("Model", "E", "A", "alpha", f"Range ({x_text})", "Residual")
    caption = f"FID = E + A x^-alpha over {x_text}"
    return CellTable(f"fits-{axis.replace('_', '-')}-{protocol}", caption, columns, rows, tuple(notes))


def _ended(row: dict[object, object], name: str) -> str:
    """`4.1 (3.9 to 4.3)`."""
    value, low, high = (float(str(row[key])) for key in (name, f"{name}_low", f"{name}_high"))
    return number(value) + (f" ({ends_text(low, high)})" if np.isfinite([low, high]).all() else "")
