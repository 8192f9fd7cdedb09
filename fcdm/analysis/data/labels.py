"""What runs are called in tables and figures, what sets one setting apart from another, and what is on one scale."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from fcdm.features.distance_names import distance_name, without_images
from fcdm.runs.identity import NOT_IDENTITY

if TYPE_CHECKING:
    from fcdm.analysis.data.curves import RunCurves

NOT_A_VARIANT = ("seed", *NOT_IDENTITY)
SIZE = tuple(f"model.{key}" for key in ("family", "name", "width", "blocks", "depth", "heads", "patch_size"))
"""What makes a model of another size, or patch, of the same family."""
USUAL_PATCH = 2
COOLDOWN = "optimiser.cooldown"
"""In a `variant` a branch's share, `0.1`, where the configuration has its first and last step: the branches of one
trajectory are one line."""


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


def size_line(model: str) -> str:
    """`DiT-XL/2`, `DiT-S/2` and a ladder's `DiT-64M` -> `DiT /2`: one line of sizes."""
    family, _, size = model.partition("-")
    patch = size.partition("/")[2].split(" ")[0] or (str(USUAL_PATCH) if family == "DiT" else "")
    return f"{family} /{patch}" if patch else family


def family_name(family: str) -> str:
    """`FCDM`, `DiT`; a user's own as it is."""
    return display_name("", family).rstrip("-")


def shortened(key: str, value: str) -> str:
    """The hash of a user's code (`model.source`) as short as in a run's name."""
    return value[:8] if key == "model.source" else value


def cooldown_share(config: Mapping[str, str]) -> float:
    """The share of a branch's steps in which its rate falls to 0, of a flat configuration; NaN: it is no branch.

    As it was asked for; where that is not told, as its steps are.
    """
    asked = config.get("optimiser.cooldown_share", "None")
    if asked != "None":
        return float(asked)
    steps = ast.literal_eval(config.get(COOLDOWN, "None"))
    return float("nan") if steps is None else 1 - steps[0] / steps[1]


def cooled_text(share: float) -> str:
    """` cooled 20 %`, for the end of a name; empty of a rate that goes on (0 or NaN)."""
    return f" cooled {100 * share:.3g} %" if share > 0 else ""


def model_of(label: str) -> str:
    """`FCDM-N` of `FCDM-N lr=0.001`, and `FCDM-N cooled 20 %` of what was cooled down."""
    name, *words = label.split()
    return " ".join([name, *(words[words.index("cooled") :] if "cooled" in words else [])])


def one_share(config: Mapping[str, str]) -> dict[str, str]:
    """The configuration with a branch's share under COOLDOWN, in the place of its steps; `None` for what is none."""
    share = cooldown_share(config)
    rest = {key: value for key, value in config.items() if key != "optimiser.cooldown_share"}
    return rest | {COOLDOWN: "None" if np.isnan(share) else f"{share:.6g}"}


class Names(NamedTuple):
    """What a run is called in tables."""

    label: str
    """`FCDM-N lr=0.001`, `FCDM-N cooled 20 %`: with what sets its variant apart from its namesakes."""
    variant: str
    trajectory: str
    """What one seed's points have in common: the run; of branches their parent and share."""


def labels_of(curves: Iterable[RunCurves]) -> tuple[dict[str, Names], dict[str, dict[str, str]]]:
    """Run -> its names, and label -> what sets its variant apart from its namesakes, by the config's keys.

    Without the cooldown, which every label of a branch says: the branches of one parent and share have one label.
    """
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    variant_of, parents = {}, {}
    for run in curves:
        config = {key: value for key, value in one_share(run.config).items() if key not in NOT_A_VARIANT}
        variant_of[run.name] = _variant(config)
        by_name.setdefault(display_name(run.model, run.family), {})[variant_of[run.name]] = config
        parents[run.model, variant_of[run.name], run.config["seed"]] = run.name
    labels, settings = {}, {}
    for run in curves:
        name = display_name(run.model, run.family)
        variants = by_name[name]
        own = variants[variant_of[run.name]]
        keys = sorted({key for config in variants.values() for key in config} - {COOLDOWN})
        differing = [key for key in keys if len({config.get(key) for config in variants.values()}) > 1]
        label = name + "".join(f" {key.rsplit('.', 1)[-1]}={shortened(key, own.get(key, 'none'))}" for key in differing)
        trajectory = run.name
        if cooled := cooled_text(cooldown_share(run.config)):
            label += cooled
            seed = run.config["seed"]
            parent = parents.get((run.model, _variant(own | {COOLDOWN: "None"}), seed))
            trajectory = f"{parent}{cooled}" if parent else f"{label}, seed {seed}"  # whose parent is not among these
        labels[run.name] = Names(label, variant_of[run.name], trajectory)
        settings[label] = {key: own.get(key, "none") for key in differing}
    return labels, settings


def _variant(config: Mapping[str, str]) -> str:
    return ",".join(f"{key}={config[key]}" for key in sorted(config))


def differing_settings(curves: Iterable[RunCurves]) -> dict[str, str]:
    """Run -> its batch size and its values of the keys that differ between these runs, as in a `variant`.

    A model's keys where they differ between runs of its family. Without sizes, seeds and what is a column of its own.
    So two runs of one table differ in nothing else.
    """
    runs = list(curves)
    configs_of = {run.name: one_share(run.config) for run in runs}
    ignored = {*NOT_A_VARIANT, *SIZE, "resolution"}
    values: dict[str, dict[str, set[str | None]]] = {}
    for family in {run.family for run in runs}:
        configs = [configs_of[run.name] for run in runs if run.family == family]
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
    return {
        name: ",".join(f"{key}={config[key]}" for key in kept if key in config) for name, config in configs_of.items()
    }


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
    """(what to add to a name: `, 16 px`, `, cooled 20 %`; its rows), by data, resolution and cooldown.

    What a law, a frontier or a ranking may join. Points of a rate that went on have `""` where there is no other data
    or resolution; cooled ones, which no such point may be joined with, always say so.
    """
    found = []
    for scale, rows in data_scales(table):
        shares = cooldowns(rows)
        for share in sorted(set(shares)):
            cooled = cooled_text(share)
            found.append((f"{scale},{cooled}" if cooled else scale, rows[shares == share]))
    return found


def cooldowns(table: pd.DataFrame) -> pd.Series:
    """The share of each row's steps in which its rate fell to 0; 0 of a rate that went on."""
    known = table["cooldown"] if "cooldown" in table else pd.Series(np.nan, table.index)
    return known.astype(float).fillna(0.0)


def trajectories(table: pd.DataFrame) -> list[str]:
    """What each row belongs to that is resampled as a whole: as its column says, else its run."""
    known = table["trajectory"] if "trajectory" in table else [None] * len(table)
    return [str(run) if pd.isna(one) else str(one) for one, run in zip(known, table["run"], strict=True)]


def data_scales(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
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
    """What a table's column of a distance is called: `FD-DINOv2 to held-out images`; of no distance `distance_name`."""
    kind, *rest = metric.split("_")
    whole = distance_name(metric, str(table.attrs.get("protocol", {}).get("features", "")))
    if kind != "fid":
        return whole
    if not rest:
        return distance_of(table)
    return " ".join([without_images(distance_of(table)), *distance_name(metric).split()[1:]])
