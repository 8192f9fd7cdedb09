"""The same runs by protocols that differ from a table's in one thing: features, sampling steps or guidance scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fcdm.analysis.data.curves import RunCurves, is_distance
from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.data.noise import evaluation_noise, same_but
from fcdm.analysis.data.tidy_table import table_of
from fcdm.runs.protocol import OF_LOSSES


def other_tables(curves: Sequence[RunCurves], table: pd.DataFrame, study: str | None) -> dict[str, pd.DataFrame]:
    """`at 50 sampling steps` -> a tidy table by the protocol that differs in that alone; also at the best guidance.

    First come those of the same samples in other features: `in FD-DINOv2`. At the best guidance every model has, at
    each budget, the scale of its lowest mean FID: `guidance_scale` says which.
    Without a protocol that was recorded, and where all was evaluated by one, there is none.
    """
    known = {key: value["protocol"] for run in curves for key, value in run.protocols.items()}
    ours = known.get(str(table["protocol_id"].iloc[0]), {})
    found = {}
    asked = _counted(curves, study)
    source = table.attrs.get("runs_dir", "these runs")
    for key, protocol in sorted(known.items()):
        if key in asked and protocol.get("features") != ours.get("features") and same_but(OF_SPACE, protocol, ours):
            other = table_of(curves, source, study, key)
            name = f"in {distance_of(other)}"
            found[f"{name} ({protocol['features']})" if name in found else name] = other
    steps = {
        str(protocol["sampling_steps"]): key
        for key, protocol in known.items()
        if protocol.get("sampling_steps") != ours.get("sampling_steps")
        and same_but(("sampling_steps",), protocol, ours)
    }
    for count, key in sorted(steps.items(), key=lambda one: (len(one[0]), one[0])):
        if key in asked:
            found[f"at {count} sampling steps"] = table_of(curves, source, study, key)
    guided = _best_guidance(guidance_table(curves, study), known, ours)
    if guided is not None:
        chosen = {key: known[key] for key in sorted(set(guided["protocol_id"]))}
        guided = guided.assign(**evaluation_noise(curves, *chosen.values()))
        guided.attrs = table.attrs | {"protocols": chosen}
        found["at the best guidance of each"] = guided
    return found


OF_SPACE = ("features", "reference", "splits")
"""What of a protocol is about the space of features alone, and not about the samples."""


def losses_beside(curves: Sequence[RunCurves], table: pd.DataFrame, study: str | None) -> pd.DataFrame:
    """The table, or that of the protocol by which more of its held-out losses were measured: the same numbers.

    A loss does not depend on how samples are drawn, so budgets that were evaluated by losses alone count too.
    """
    known = {key: value["protocol"] for run in curves for key, value in run.protocols.items()}
    ours = known.get(str(table["protocol_id"].iloc[0]), {})
    keys = [key for key in OF_LOSSES if key != "samples"]
    source, found = table.attrs.get("runs_dir", "these runs"), table
    for key in sorted(_counted(curves, study)):
        if ours and all(known.get(key, {}).get(name) == ours.get(name) for name in keys):
            other = table_of(curves, source, study, key)
            if other["heldout_loss"].notna().sum() > found["heldout_loss"].notna().sum():
                found = other
    return found


def spaces_beside(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those of `other_tables` that are of the same samples in other features."""
    return {name: table for name, table in tables.items() if name.startswith("in ")}


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
    rows = guided[guided["protocol_id"].isin(alike) & is_distance(guided["fid"])]
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
