"""What cooldown branches gained: beside a rate that goes on and beside the average, with their lineage and their cost.

A cooldown and an average of the weights do the same work, so raw weights and average stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from fcdm.analysis.data.labels import cooldowns, distance_of
from fcdm.analysis.reporting.cell_tables import MISSING, Cell, CellTable, Value, over_seeds
from fcdm.analysis.reporting.study_facts import ProtocolResults
from fcdm.config.ema_lag import ema_lag
from fcdm.config.schema import EMAConfig
from fcdm.runs.identity import cooldown_of, parent_id
from fcdm.runs.reader import RunView

RAW = "raw"
COLUMNS = (
    *("Model", "Steps", "Seeds", "Not cooled", "Cooled", "Cooled, raw weights"),
    *("Average's lag (steps)", "Cooldown (steps)", "Branch alone (PFLOPs)", "Leaves (parent and step)"),
)


def cooldown_tables(views: Mapping[str, RunView], by_protocol: Iterable[ProtocolResults]) -> list[CellTable]:
    """A table for each protocol that evaluated branches, its raw weights in the same; [] of a study without branches.

    views: run -> its files.
    """
    alike: dict[str, list[ProtocolResults]] = {}
    for results in by_protocol:
        if results.table is not None and cooldowns(results.table).any():
            rest = {key: value for key, value in results.settings.items() if key != "weights"}
            alike.setdefault(json.dumps(rest, sort_keys=True), []).append(results)
    found = []
    for group in alike.values():
        raw = next((one for one in group if one.settings.get("weights") == RAW), None)
        averaged = [one for one in group if one is not raw]
        found += [_table(views, one, raw) for one in averaged or group]
    return found


def _table(views: Mapping[str, RunView], shown: ProtocolResults, raw: ProtocolResults | None) -> CellTable:
    """`shown`: by the average; or `raw` itself, where the study has only that."""
    of_shown, of_raw = (_rows(one) for one in (shown, raw))
    is_raw = shown is raw
    whole = of_shown if is_raw or of_raw.empty else pd.concat([of_shown, of_raw])
    cooled = whole[cooldowns(whole) > 0]
    rows: list[list[Cell]] = []
    for (label, _, steps), same in cooled.groupby(["label", "variant", "steps"], sort=False):
        branches = [views[run] for run in dict.fromkeys(same["run"])]
        names = [branch.name for branch in branches]
        parents = [_parent(branch, views.values()) for branch in branches]
        first = branches[0]
        uncooled = [parent.name for parent in parents if parent]
        start, end = cooldown_of(first.config) or (0, 0)
        lag = ema_lag(EMAConfig(**first.config["ema"]), end).age
        extra = [first.cost["train_flops_per_step"] * (end - branch.begun) / 1e15 for branch in branches]
        rows.append(
            [
                str(label),
                f"{steps:,}",
                str(same["seed"].nunique()),
                _fid(of_shown, uncooled, end),
                MISSING if is_raw else _fid(of_shown, names, end),
                _fid(of_raw, names, end),
                MISSING if is_raw else f"{lag:,.0f}",
                f"{end - start:,}",
                Value(sum(extra) / len(extra)),
                ", ".join(_leaves(branch) for branch in branches),
            ]
        )
    distance, weights = distance_of(whole), shown.settings.get("weights", "ema")
    notes = (
        f"{distance}, mean over seeds; weights: {weights}, where the column does not say raw. A "
        "cooldown and an average of the weights do the same work: an average that lags by more than the cooldown is "
        "made of weights from before it.",
        "Cooled points are joined with no others in laws, frontiers and ratios. What a branch costs alone are the "
        "steps after it left; its device-hours elsewhere include its parent's until then.",
    )
    caption = f"{distance} after a cooldown, beside the rate that goes on"
    return CellTable(f"cooldown-{shown.id}", caption, COLUMNS, rows, notes, frozenset({0, len(COLUMNS) - 1}))


def _rows(results: ProtocolResults | None) -> pd.DataFrame:
    table = None if results is None else results.table
    return pd.DataFrame({"run": [], "steps": [], "fid": []}) if table is None else table


def _fid(rows: pd.DataFrame, runs: Sequence[str], steps: int) -> Cell:
    values = rows.loc[rows["run"].isin(runs) & (rows["steps"] == steps), "fid"].dropna()
    return over_seeds(list(values)) if len(values) else MISSING


def _parent(branch: RunView, views: Iterable[RunView]) -> RunView | None:
    identity = parent_id(branch.config)
    return next((view for view in views if view.id == identity), None)


def _leaves(branch: RunView) -> str:
    """`N-digits-8px-1a2b3c4d at 16`."""
    if branch.branched_from is None:
        return "none: trained from step 0"
    return f"{branch.branched_from[0]} at {branch.branched_from[1]:,}"
