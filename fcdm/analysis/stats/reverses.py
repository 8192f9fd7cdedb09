"""Where the published points have FCDM behind a neighbour of its size: computed, so that none is left out."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fcdm.analysis.stats.claim_sides import Side, weakest
from fcdm.formatting import steps_text

BETTER = {"fid": -1, "sfid": -1, "inception_score": 1, "precision": 1, "recall": 1}
"""A metric -> whether a higher (1) or a lower (-1) value is the better one."""
NAMES = {"fid": "FID", "sfid": "sFID", "inception_score": "Inception Score"}


@dataclass(frozen=True)
class Reverse:
    """A published number in which FCDM is worse."""

    key: str
    claim: str
    models: tuple[str, str]
    resolution: int
    side: Side


def reverses(points: pd.DataFrame) -> list[Reverse]:
    """FCDM's unguided points against those of other families at the same size letter and resolution, where it is worse.

    At the same budget; FCDM's last one, where the other has none there, against the other's last. `points`:
    `published`'s.
    """
    unguided = points[points["guidance_scale"] == 1]
    last = unguided.groupby(["model", "resolution"])["steps"].max()
    found = []
    for metric in BETTER:
        known = unguided[unguided[metric].notna()]
        for _, ours in known[known["family"] == "fcdm"].iterrows():
            size = _size(str(ours["model"]))
            rivals = known[(known["family"] != "fcdm") & (known["resolution"] == ours["resolution"])]
            for name, rows in rivals[rivals["model"].map(_size) == size].groupby("model"):
                same = rows[rows["steps"] == ours["steps"]]
                theirs = (same if len(same) else rows.sort_values("steps")).iloc[-1]
                comparable = len(same) or ours["steps"] == last[ours["model"], ours["resolution"]]
                behind = (theirs[metric] - ours[metric]) * BETTER[metric] > 0
                if not comparable or not behind or _patch(str(name)) > 2:
                    continue
                found.append(_reverse(metric, ours, theirs))
    return found


def _reverse(metric: str, ours: pd.Series, theirs: pd.Series) -> Reverse:
    values = [f"{row['model']} {row[metric]:g} at {steps_text(float(row['steps']))}" for row in (ours, theirs)]
    budgets = "" if ours["steps"] == theirs["steps"] else " (at different budgets)"
    status = weakest(str(row["confidence"]) for row in (ours, theirs))
    sources = "; ".join(f"{row['model']}: {row['source']} ({row['confidence']})" for row in (ours, theirs))
    gap = float(theirs[metric] - ours[metric])
    side = Side(f"{NAMES.get(metric, metric)}: {values[0]} against {values[1]}{budgets}", sources, gap, status=status)
    names = (str(ours["model"]), str(theirs["model"]))
    key = f"reverse_{metric}_{names[0]}_{names[1]}-{ours['resolution']}px-{int(ours['steps'])}"
    claim = (
        f"where FCDM is behind: {NAMES.get(metric, metric)} of {names[0]} against {names[1]}, {ours['resolution']} px"
    )
    return Reverse(key, claim, names, int(ours["resolution"]), side)


def _size(model: str) -> str:
    """`XL` of `DiT-XL/2`."""
    return model.partition("-")[2].partition("/")[0]


def _patch(model: str) -> int:
    return int(model.partition("/")[2] or 1)
