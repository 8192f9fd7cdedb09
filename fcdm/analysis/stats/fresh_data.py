"""Whether laws are of fresh data: points that have seen every image many times bend as no law of compute does."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.data.image_counts import MOST_EPOCHS
from fcdm.formatting import plural, three_digits

MOST_NAMED = 4
"""More settings than this are told as a number."""


def seen_often(table: pd.DataFrame, x: str = "train_flops", y: str = "fid") -> list[str]:
    """The line that stands beside the laws of y against x where some of their points lie beyond MOST_EPOCHS; else none.

    A point is a setting at a budget. Of points whose epochs are not known it says nothing.
    """
    if "epochs" not in table:
        return []
    met = table[np.isfinite(table[x]) & (table[x] > 0) & np.isfinite(table[y]) & (table[y] > 0)]
    points = met.groupby(["label", "steps"], as_index=False)["epochs"].max()
    often = points[points["epochs"] > MOST_EPOCHS * (1 + 1e-9)]
    if often.empty:
        return []
    labels = sorted(set(often["label"]))
    named = plural(len(labels), "setting") if len(labels) > MOST_NAMED else ", ".join(labels)
    return [
        f"{len(often)} of {plural(len(points), 'point')} lie beyond {MOST_EPOCHS} epochs "
        f"({named}; up to {three_digits(float(often['epochs'].max()))}): laws take data to be fresh"
    ]
