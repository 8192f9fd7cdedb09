"""The budgets of a study, which models of different size have in common by their steps or by their training FLOPs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.epochs import epochs_text

ONE_BUDGET = 1.1
"""FLOPs that differ by less than this factor are one budget: steps are whole numbers, of small budgets few."""


def budget_rows(table: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """(the budget, its rows with a column `at` that says it) from small to large: by steps, or by training FLOPs.

    FLOPs where they make fewer budgets than steps do: of a study that was asked for in FLOPs, whose models of
    different size have different steps.
    """
    flops = np.sort(table["train_flops"].unique())
    whole = np.isfinite(flops).all() and (flops > 0).all()
    starts = flops[np.concatenate([[True], flops[1:] > ONE_BUDGET * flops[:-1]])] if whole else flops
    if whole and len(starts) < table["steps"].nunique():
        at = starts[np.searchsorted(starts, table["train_flops"], side="right") - 1]
    else:
        at = table["steps"].to_numpy(float)
    return [(float(str(budget)), rows) for budget, rows in table.assign(at=at).groupby("at", sort=True)]


def budget_text(rows: pd.DataFrame) -> str:
    """`800 steps (71.2 epochs)`; `1e+15 FLOPs (1,234 steps)`: of one model."""
    last = rows.sort_values("steps").iloc[-1]
    steps = f"{last['steps']:,} steps"
    known = [f"{epochs_text(last['epochs'])} epochs"] if np.isfinite(last.get("epochs", np.nan)) else []
    told = [steps, *known] if last["at"] == last["steps"] else [f"{last['at']:.3g} FLOPs", steps, *known]
    return told[0] + (f" ({', '.join(told[1:])})" if told[1:] else "")
