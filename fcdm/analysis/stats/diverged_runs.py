"""Which points are of runs that diverged: a law of size and data says nothing of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import trajectories
from fcdm.formatting import plural
from fcdm.laws.verdict import LOSS

TIMES = 2.0
"""A held-out loss above so many times what its size reached by then is no noise: seeds move it by a few per cent."""


def diverged(rows: pd.DataFrame) -> np.ndarray:
    """True where the held-out loss is above `TIMES` the lowest that any run of the same model had by so many steps
    (of one protocol), and at all later points of that run. (rows,); all False where no loss is known."""
    if LOSS not in rows:
        return np.zeros(len(rows), dtype=bool)
    by = ["model", "protocol_id", "steps"]
    lowest = rows.groupby(by)[LOSS].min().groupby(level=by[:2]).cummin().rename("lowest")
    over = rows[LOSS] > TIMES * rows.join(lowest, on=by)["lowest"]
    first = rows["steps"].where(over).groupby(np.array(trajectories(rows))).transform("min")
    return (rows["steps"] >= first).to_numpy()  # never, where a run has none


def diverged_note(rows: pd.DataFrame, out: np.ndarray) -> str:
    """`left out: 4 points of 3 runs that diverged (fcdm/w18 from step 8,000, ...)`."""
    first = rows.assign(run=trajectories(rows))[out].groupby(["model", "run"])["steps"].min()
    each = ", ".join(
        f"{model} by step {', '.join(f'{steps:,}' for steps in sorted(of_model))}"
        for model, of_model in first.groupby(level="model")
    )
    return (
        f"left out: {plural(int(out.sum()), 'point')} of {plural(len(first), 'run')} that diverged ({each}): the law "
        "is of runs that do not"
    )
