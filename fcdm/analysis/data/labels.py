"""What runs are called in tables and figures, what sets one setting apart from another, and what is on one scale."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from fcdm.features.distance_names import distance_name
from fcdm.runs.identity import NOT_IDENTITY

if TYPE_CHECKING:
    from fcdm.analysis.data.curves import RunCurves

NOT_A_VARIANT = ("seed", *NOT_IDENTITY)
SIZE = tuple(f"model.{key}" for key in ("family", "name", "width", "blocks", "depth", "heads", "patch_size"))
"""What makes a model of another size, or patch, of the same family."""
USUAL_PATCH = 2


def display_name(model: str, family: str) -> str:
    """`dit/XL-2` -> `DiT-XL/2`; `XL` -> `FCDM-XL`: as in the papers. A user's own model keeps its name."""
    size = model.rsplit("/", 1)[-1]
    if family not in ("dit", "fcdm"):
        return model or family
    return f"DiT-{size.replace('-', '/', 1)}" if family == "dit" else f"FCDM-{size}"


def patch_of(name: str, size: str) -> int | None:
    """The patch of a DiT of this size, by its name: 4 of `DiT-64M/4` for `64M`; None: it is another model.

    A ladder's size without a patch (`DiT-64M`) has the usual one.
    """
    if name == f"DiT-{size}":
        return USUAL_PATCH
    of_size, _, patch = name.rpartition("/")
    return int(patch) if of_size == f"DiT-{size}" and patch.isdigit() else None


def family_name(family: str) -> str:
    """`FCDM`, `DiT`; a user's own as it is."""
    return display_name("", family).rstrip("-")


def shortened(key: str, value: str) -> str:
    """The hash of a user's code (`model.source`) as short as in a run's name."""
    return value[:8] if key == "model.source" else value


def labels_of(curves: Iterable[RunCurves]) -> tuple[dict[str, tuple[str, str]], dict[str, dict[str, str]]]:
    """Run -> (label, variant), and label -> what sets its variant apart from its namesakes, by the config's keys.

    A label names these: `FCDM-N lr=0.001`.
    """
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    variant_of = {}
    for run in curves:
        config = {key: value for key, value in run.config.items() if key not in NOT_A_VARIANT}
        variant_of[run.name] = variant = ",".join(f"{key}={config[key]}" for key in sorted(config))
        by_name.setdefault(display_name(run.model, run.family), {})[variant] = config
    labels, settings = {}, {}
    for run in curves:
        name = display_name(run.model, run.family)
        variants = by_name[name]
        own = variants[variant_of[run.name]]
        keys = sorted({key for config in variants.values() for key in config})
        differing = [key for key in keys if len({config.get(key) for config in variants.values()}) > 1]
        suffix = "".join(f" {key.rsplit('.', 1)[-1]}={shortened(key, own.get(key, 'none'))}" for key in differing)
        labels[run.name] = (name + suffix, variant_of[run.name])
        settings[name + suffix] = {key: own.get(key, "none") for key in differing}
    return labels, settings


def differing_settings(curves: Iterable[RunCurves]) -> dict[str, str]:
    """Run -> its batch size and its values of the keys that differ between these runs, as in a `variant`.

    A model's keys where they differ between runs of its family. Without sizes, seeds and what is a column of its own.
    So two runs of one table differ in nothing else.
    """
    runs = list(curves)
    ignored = {*NOT_A_VARIANT, *SIZE, "resolution"}
    values: dict[str, dict[str, set[str | None]]] = {}
    for family in {run.family for run in runs}:
        configs = [run.config for run in runs if run.family == family]
        for key in {key for config in configs for key in config} - ignored:
            values.setdefault(key, {})[family] = {config.get(key) for config in configs}
    families = len({run.family for run in runs})
    kept = []
    for key, by_family in sorted(values.items()):
        several = any(len(of_one) > 1 for of_one in by_family.values())
        if not key.startswith("model."):
            several = several or len(by_family) < families or len(set.union(*by_family.values())) > 1
        if several or key == "batch_size":
            kept.append(key)
    return {run.name: ",".join(f"{key}={run.config[key]}" for key in kept if key in run.config) for run in runs}


def config_of(variant: str) -> dict[str, str]:
    """What a `variant` of `labels_of`, or a text of `differing_settings`, was made of; {} of any other text."""
    parts = re.split(r",(?=[a-z_]+(?:\.[A-Za-z_0-9]+)*=)", variant)
    config = dict(part.split("=", 1) for part in parts if "=" in part)
    return config if "batch_size" in config else {}


def in_order_of_size(table: pd.DataFrame, *then: str) -> pd.DataFrame:
    """The rows with DiT last and sizes from small to large, then by these columns; numbered anew."""
    sorted_rows = table.assign(last=table["family"] == "dit").sort_values(["last", "forward_gmacs", *then])
    return sorted_rows.drop(columns="last").reset_index(drop=True)


def scales(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(what to add to a name, `""` where there is one scale only: `, 16 px`; its rows), by data and resolution.

    FIDs are on one scale for the same data at the same resolution; others are never joined.
    """
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


def distance_of(table: pd.DataFrame) -> str:
    """What a table has under `fid`, by its name: `FID`, `FD-DINOv2`, `kernel distance (classifier)`."""
    known = list(table["distance"].dropna()) if "distance" in table else []
    return str(known[0]) if known else "FID"


def metric_name(table: pd.DataFrame, metric: str) -> str:
    """What a table's column of a distance is called: `FD-DINOv2 to held-out images`; another's own key."""
    kind, *rest = metric.split("_")
    whole = distance_name(metric, str(table.attrs.get("protocol", {}).get("features", "")))
    if kind != "fid":
        return whole
    return " ".join([distance_of(table), *distance_name(metric).split()[1:]]) if rest else distance_of(table)
