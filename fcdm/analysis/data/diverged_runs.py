"""Which points are of runs that diverged. Joint laws leave them out; curves keep them, and say so."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import trajectories
from fcdm.formatting import plural
from fcdm.laws.verdict import LOSS
from fcdm.runs.divergence import DIVERGED


def diverged(rows: pd.DataFrame) -> np.ndarray:
    """True where the held-out loss is above `DIVERGED` times the lowest that any run of the same label had by so
    many steps (of one protocol), and at all later points of that run. (rows,); all False where no loss is known."""
    if LOSS not in rows:
        return np.zeros(len(rows), dtype=bool)
    by = ["label", "protocol_id", "steps"]
    lowest = rows.groupby(by)[LOSS].min().groupby(level=by[:2]).cummin().rename("lowest")
    over = rows[LOSS] > DIVERGED * rows.join(lowest, on=by)["lowest"]
    first = rows["steps"].where(over).groupby(np.array(trajectories(rows))).transform("min")
    return (rows["steps"] >= first).to_numpy()  # never, where a run has none


def diverged_note(rows: pd.DataFrame, out: np.ndarray) -> str:
    """`left out: 4 points of 3 runs that diverged (fcdm/w18 by step 8,000, ...): ...`."""
    return f"left out: {_which(rows, out)}: the law is of runs that do not"


def diverged_lines(rows: pd.DataFrame) -> list[str]:
    """A line where runs diverged, for curves and ratios, which hold them."""
    out = diverged(rows)
    return [f"{_which(rows, out)}: means, ratios and laws of one amount hold them"] if out.any() else []


def _which(rows: pd.DataFrame, out: np.ndarray) -> str:
    first = rows.assign(run=trajectories(rows))[out].groupby(["model", "run"])["steps"].min()
    each = ", ".join(
        f"{model} by step {', '.join(f'{steps:,}' for steps in sorted(of_model))}"
        for model, of_model in first.groupby(level="model")
    )
    return f"{plural(int(out.sum()), 'point')} of {plural(len(first), 'run')} that diverged ({each})"
