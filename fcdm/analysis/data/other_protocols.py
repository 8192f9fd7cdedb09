"""The same runs by protocols that differ from a table's in one thing: sampling steps, or the scale of guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fcdm.analysis.data.curves import RunCurves, is_fid
from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.noise import evaluation_noise, same_but
from fcdm.analysis.data.tidy_table import table_of


def other_tables(curves: Sequence[RunCurves], table: pd.DataFrame, study: str | None) -> dict[str, pd.DataFrame]:
    """`at 50 sampling steps` -> a tidy table by the protocol that differs in that alone; also at the best guidance.

    In the latter every model has, at each budget, the scale of its lowest mean FID: `guidance_scale` says which.
    Without a protocol that was recorded, and where all was evaluated by one, there is none.
    """
    known = {key: value["protocol"] for run in curves for key, value in run.protocols.items()}
    ours = known.get(str(table["protocol_id"].iloc[0]), {})
    found = {}
    steps = {
        str(protocol["sampling_steps"]): key
        for key, protocol in known.items()
        if protocol.get("sampling_steps") != ours.get("sampling_steps")
        and same_but(("sampling_steps",), protocol, ours)
    }
    asked = _counted(curves, study)
    for count, key in sorted(steps.items(), key=lambda one: (len(one[0]), one[0])):
        if key in asked:
            found[f"at {count} sampling steps"] = table_of(
                curves, table.attrs.get("runs_dir", "these runs"), study, key
            )
    guided = _best_guidance(guidance_table(curves, study), known, ours)
    if guided is not None:
        chosen = {key: known[key] for key in sorted(set(guided["protocol_id"]))}
        guided = guided.assign(**evaluation_noise(curves, *chosen.values()))
        guided.attrs = table.attrs | {"protocols": chosen}
        found["at the best guidance of each"] = guided
    return found


def _counted(curves: Sequence[RunCurves], study: str | None) -> set[str]:
    """The protocols by which something that counts was evaluated."""
    return {
        evaluated.protocol_id
        for run in curves
        for evaluated in run.evaluated
        if study is None or evaluated.step in run.studies[study][1]
    }


def _best_guidance(guided: pd.DataFrame, known: dict[str, Any], ours: dict[str, Any]) -> pd.DataFrame | None:
    """Each setting's rows at the scale of its lowest mean FID at each budget; None: nothing is evaluated at several."""
    if guided.empty:
        return None
    ignored = ("guidance_scale", "guidance_channels", "guidance_interval")
    alike = {key for key, protocol in known.items() if same_but(ignored, protocol, ours)}
    rows = guided[guided["protocol_id"].isin(alike) & is_fid(guided["fid"])]
    if rows.empty or rows["kind"].nunique() > 1:  # of several kinds of guidance none is "the" best
        return None
    means = rows.groupby(["label", "steps", "guidance_scale"])["fid"].mean()
    best = means.groupby(level=["label", "steps"]).idxmin()
    chosen = {(label, steps): scale for label, steps, scale in best}
    kept = [
        chosen[label, steps] == scale
        for label, steps, scale in zip(rows["label"], rows["steps"], rows["guidance_scale"], strict=True)
    ]
    return rows[kept].drop(columns="kind").reset_index(drop=True)
