"""A tidy table read back from the CSV that `python -m analysis.table` writes, for those who lack the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fcdm.analysis.data.epochs import images_of_epoch
from fcdm.analysis.data.labels import trajectories
from fcdm.analysis.data.tidy_table import COLUMNS
from fcdm.atomic import file_errors
from fcdm.errors import UserError

NEEDED = (
    *("run", "model", "family", "data", "resolution", "seed", "batch_size", "lr", "steps", "protocol_id", "fid"),
    *("parameters", "forward_gmacs", "train_flops", "label", "samples", "floor"),
)
"""Columns without which there is no curve."""
TEXTS = ("run", "model", "family", "data", "protocol_id", "device", "label", "trajectory")


def table_in_csv(path: Path) -> pd.DataFrame:
    """A tidy table without its pictures. Raises UserError for a file that is missing or none."""
    try:
        with file_errors(path, "reading the table"):
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=True)
    except ValueError as error:
        raise UserError(
            f"{path} is no table that python -m analysis.table writes: {str(error).splitlines()[0]}"
        ) from None
    if table.empty:
        raise UserError(f"{path} has no row: write it again with python -m analysis.table")
    if lacking := [column for column in NEEDED if column not in table]:
        raise UserError(f"{path} lacks {', '.join(lacking)}: write it again with python -m analysis.table")
    table = table.reindex(columns=list(COLUMNS))  # columns of later versions are empty
    table["device"] = table["device"].fillna("")
    table["trajectory"] = trajectories(table)
    table["images"] = table["steps"] * table["batch_size"]
    whole = table["data"].map(lambda data: images_of_epoch(data, {}))
    table["epochs"] = table["epochs"].astype(float).fillna(table["images"] / whole)
    # Of one table a label names a variant: it says all that sets a variant apart.
    table = table.assign(variant=table["label"], grid=None, grid_columns=1)[list(COLUMNS)]
    settings = {
        label: dict(part.split("=", 1) for part in label.split() if "=" in part) for label in set(table["label"])
    }
    protocol = _of_id(str(table["protocol_id"].iloc[0]))
    table.attrs = {"left_out": [], "missing": [], "protocol": protocol, "settings": settings}
    return table


def _of_id(protocol: str) -> dict[str, Any]:
    """What a protocol's id says of it: `ddim25-1000-3f2a91bc`; `loss-3f2a91bc` is of losses alone."""
    if protocol.count("-") < 2:
        return {"samples": 0}
    sampler, samples, _ = protocol.rsplit("-", 2)
    name = sampler.rstrip("0123456789")
    steps = sampler.removeprefix(name)
    return {"sampler": name, "sampling_steps": int(steps) if steps else None, "samples": int(samples)}
