"""Which FIDs of a table are on one scale: those of the same data at the same resolution. Others are never joined."""

from __future__ import annotations

import pandas as pd


def scales(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(what to add to a name, `""` where there is one scale only: `, 16 px`; its rows), by data and resolution."""
    keys = [key for key in ("data", "resolution") if key in table]
    varied = [key for key in keys if table[key].nunique() > 1]
    if not varied:
        return [("", table)]
    found = []
    for _, rows in table.groupby(varied, sort=True):
        first = rows.iloc[0]
        words = [str(first["data"])] * ("data" in varied) + [f"{first['resolution']} px"] * ("resolution" in varied)
        found.append((f", {' '.join(words)}", rows))
    return found
