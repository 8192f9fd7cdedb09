"""Which points are of runs that diverged: a law of size and data says nothing of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import trajectories
from fcdm.formatting import plural
from fcdm.laws.verdict import HELDOUT_LOSS as LOSS

TIMES = 2.0
"""A held-out loss above so many times what its size reached by then is no noise: seeds move it by a few per cent."""


def diverged(rows: pd.DataFrame) -> np.ndarray:
    """True where the held-out loss is above `TIMES` the lowest that any run of the same model had by so many steps
    (of one protocol), and at all later points of that run. (rows,); all False where no loss is known."""
    found = np.zeros(len(rows), dtype=bool)
    if LOSS not in rows:
        return found
    losses, steps = rows[LOSS].to_numpy(float), rows["steps"].to_numpy(float)
    runs = np.array(list(trajectories(rows)), dtype=object)
    for _, at in rows.assign(at=np.arange(len(rows))).groupby(["model", "protocol_id"], sort=False)["at"]:
        own = at.to_numpy()
        for one in own:
            known = losses[own[steps[own] <= steps[one]]]
            known = known[np.isfinite(known)]
            found[one] = len(known) > 0 and losses[one] > TIMES * known.min()
    for run in set(runs[found]):
        own = runs == run
        found |= own & (steps >= steps[own & found].min())
    return found


def diverged_note(rows: pd.DataFrame, out: np.ndarray) -> str:
    """`left out: 4 points of 3 runs that diverged (fcdm/w18 from step 8,000, ...)`."""
    runs = np.array(list(trajectories(rows)), dtype=object)
    first = rows[out].assign(run=runs[out]).groupby(["model", "run"], sort=True)["steps"].min()
    each = ", ".join(
        f"{model} by step {', '.join(f'{steps:,}' for steps in sorted(of_model))}"
        for model, of_model in first.groupby(level="model", sort=True)
    )
    return (
        f"left out: {plural(int(out.sum()), 'point')} of {plural(len(first), 'run')} that diverged ({each}): the law "
        f"is of runs that do not"
    )
