"""What guidance trades: results of one checkpoint evaluated by protocols that differ in nothing but the scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from fcdm.analysis.data.curves import RunCurves
from fcdm.analysis.data.labels import labels_of
from fcdm.analysis.data.tidy_table import COLUMNS, row_of

GUIDED = ("guidance_channels", "guidance_interval")
"""What of a protocol means nothing at scale 1: the unguided result stands with each of its guided families."""


def guidance_table(curves: Sequence[RunCurves], study: str | None = None) -> pd.DataFrame:
    """A row per run, step and guidance scale, with COLUMNS, of the checkpoints evaluated at two scales at least.

    The protocols of one `kind` (a column, JSON) differ only in the scale. A study counts with its runs and budgets,
    whatever protocol asked. Empty where there is none.
    """
    labels, _ = labels_of(curves)
    rows = []
    for run in curves:
        for evaluated in run.evaluated:
            protocol = run.protocols.get(evaluated.protocol_id, {}).get("protocol", {})
            if "guidance_scale" not in protocol or (study is not None and evaluated.step not in run.studies[study][1]):
                continue
            plain, guided = _kind(protocol)
            rows.append({**row_of(run, evaluated, labels[run.name]), "plain": plain, "kind": guided})
    if not rows:
        return pd.DataFrame(columns=[*COLUMNS, "kind"])
    table = pd.DataFrame(rows)
    unguided = table["guidance_scale"] == 1
    kinds = table.loc[~unguided, ["plain", "kind"]].drop_duplicates()
    whole = pd.concat([table[~unguided], table[unguided].drop(columns="kind").merge(kinds, on="plain")])
    scales = whole.groupby(["run", "steps", "kind"])["guidance_scale"].transform("nunique")
    whole = whole.loc[scales >= 2, [*COLUMNS, "kind"]]
    return whole.sort_values(["label", "seed", "trajectory", "kind", "steps", "guidance_scale"], ignore_index=True)


def _kind(protocol: dict[str, Any]) -> tuple[str, str]:
    """(all that matters without guidance, all of it), less the scale."""
    rest = {key: value for key, value in protocol.items() if key != "guidance_scale" and value is not None}
    plain = {key: value for key, value in rest.items() if key not in GUIDED}
    return json.dumps(plain, sort_keys=True), json.dumps(rest, sort_keys=True)
