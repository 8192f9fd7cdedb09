"""What a study measured as a table of a page: a row for each curve, a column for each budget."""

from __future__ import annotations

import pandas as pd

from fcdm.analysis.data.epochs import epochs_text
from fcdm.analysis.reporting.cell_tables import Cell, CellTable
from fcdm.forecasts.ledger_table import digits


def budget_table(table: pd.DataFrame, metric: str, title: str) -> CellTable | None:
    """Mean (lowest, highest) over seeds, FCDM first, from small to large; None where nothing is measured.

    `metric`: a column of the table.
    """
    known = table[table[metric].notna()]
    if known.empty:
        return None
    budgets = sorted(set(known["steps"]))
    epochs = [epochs_text(float(known.loc[known["steps"] == steps, "epochs"].max())) for steps in budgets]
    rows: list[list[Cell]] = [["epochs", "", *epochs]]
    by_size = known.assign(last=known["family"] == "dit").groupby(["last", "forward_gmacs", "label"], sort=True)
    for (_, gmacs, label), own in by_size:
        at = [own.loc[own["steps"] == steps, metric].astype(float) for steps in budgets]
        rows.append([str(label), f"{1e3 * float(str(gmacs)):.3g}", *map(_over_seeds, at)])
    caption = f"{title} after so many steps, mean (lowest, highest) of up to {len(set(known['seed']))} seeds"
    columns = ("", "MMACs", *(f"{steps:,}" for steps in budgets))
    return CellTable(f"budgets-{metric}", caption, columns, rows, (), frozenset(range(len(columns))) - {1})


def _over_seeds(values: pd.Series) -> str:
    ends = f" ({digits(values.min())}, {digits(values.max())})" if len(values) > 1 else ""
    return f"{digits(float(values.mean()))}{ends}" if len(values) else ""
