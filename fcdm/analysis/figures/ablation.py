"""Variants of one model at one budget, side by side: what a kernel, a block, a norm is worth."""

from __future__ import annotations

import re
import textwrap
from dataclasses import MISSING, asdict, fields
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import cooled_text, display_name
from fcdm.analysis.data.seed_curves import curve_notes
from fcdm.analysis.figures.axes import NOTE, Drawn, fid_label
from fcdm.analysis.figures.styles import DOUBLE, FAMILIES, OTHERS, lighter
from fcdm.analysis.published import PUBLISHED
from fcdm.config.presets import load_preset, preset_names
from fcdm.config.schema import FAMILIES as SCHEMAS

NOT_SHOWN = ("model.name", "model.family")


def ablation_figure(table: pd.DataFrame, published: pd.DataFrame | None = None) -> Drawn | None:
    """Bars of the FID of each variant of a model's block, seeds as dots, the difference to the plain model written.

    Variants are runs of one preset that differ in keys of `model` only, at the largest budget evaluated of all;
    the plain model has the schema's default for each of those keys. None where no model has two variants.
    """
    left_out: list[str] = []
    groups = [group for group in _groups(table, left_out) if len(set(group["change"])) > 1]
    if not groups:
        return None
    others = _published(published, groups, left_out)
    drawn = pd.concat([*groups, *([others] if len(others) else [])], ignore_index=True)
    counts = [len(part.groupby(["origin", "change"])) for _, part in drawn.groupby("panel", sort=False)]
    height = sum(0.23 * count + 0.62 for count in counts) + 0.1
    figure, panels = plt.subplots(
        len(counts), 1, figsize=(DOUBLE, height), squeeze=False, gridspec_kw={"height_ratios": counts}
    )
    numbers = []
    for axes, (panel, part) in zip(panels[:, 0], drawn.groupby("panel", sort=False), strict=True):
        numbers.append(_bars(axes, str(panel), part, fid_label(table)))
    whole = pd.concat(numbers, ignore_index=True)
    whole.attrs["left_out"] = [*left_out, *curve_notes(table)]
    return figure, whole


def settings_of(variant: str) -> dict[str, str]:
    """`model.kernel_size=7,model.blocks=[1, 1],optimiser.lr=0.001` -> a dict. (Lists have a space after a comma.)"""
    parts = re.split(r",(?=[\w.]+=)", variant)
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _groups(table: pd.DataFrame, left_out: list[str]) -> list[pd.DataFrame]:
    """For each model and setting of all the rest: a row per variant and seed, at one budget."""
    known = table[np.isfinite(table["fid"])]
    settings = {variant: settings_of(variant) for variant in known["variant"].unique()}
    rest = {
        variant: str(sorted((key, value) for key, value in keys_of.items() if not key.startswith("model.")))
        for variant, keys_of in settings.items()
    }
    groups = []
    for (model, family, _), rows in known.groupby(["model", "family", known["variant"].map(rest)]):
        variants = list(rows["variant"].unique())
        if len(variants) < 2:
            continue
        name = display_name(str(model), str(family)) + cooled_text(float(rows["cooldown"].iloc[0]))
        shared = set.intersection(*(set(rows.loc[rows["variant"] == variant, "steps"]) for variant in variants))
        if not shared:
            left_out.append(f"left out: the variants of {name}: no budget that all were evaluated at")
            continue
        last = max(shared)
        keys = sorted({key for variant in variants for key in settings[variant] if key.startswith("model.")})
        keys = [key for key in keys if key not in NOT_SHOWN and len({settings[v].get(key) for v in variants}) > 1]
        plain = _plain(str(model), str(family))
        changes = {}
        for variant in variants:
            own = {key: settings[variant].get(key, plain.get(key, "none")) for key in keys}
            changed = [f"{key.removeprefix('model.')} {own[key]}" for key in keys if own[key] != plain.get(key)]
            changes[variant] = ", ".join(changed) or f"plain ({', '.join(_word(key, own[key]) for key in keys)})"
        at = rows[rows["steps"] == last]
        group = at[["label", "run", "seed", "steps", "fid", "family", "resolution"]].assign(
            change=at["variant"].map(changes), name=name, panel=f"{name}, {last:,} steps", origin="these runs"
        )
        groups.append(group.assign(baseline=group["change"].str.startswith("plain (")))
        if not groups[-1]["baseline"].any():
            left_out.append(f"{name}: no difference is written, for no variant is the plain model")
    return groups


def _word(key: str, value: str) -> str:
    return f"{key.removeprefix('model.')} {value}"


def _plain(model: str, family: str) -> dict[str, str]:
    """The schema's defaults of a family of models; of a preset of ours all that it says (its width, its blocks)."""
    if model in preset_names():
        return {f"model.{key}": str(value) for key, value in asdict(load_preset(model)).items()}
    known: dict[str, Any] = (
        {field.name: field.default for field in fields(SCHEMAS[family])} if family in SCHEMAS else {}
    )
    return {f"model.{key}": str(value) for key, value in known.items() if value is not MISSING}


def _published(published: pd.DataFrame | None, groups: list[pd.DataFrame], left_out: list[str]) -> pd.DataFrame:
    """The published ablations of a model and budget that is drawn."""
    if published is None or published.empty:
        return pd.DataFrame()
    from fcdm.analysis.published import published_ablations

    points = published_ablations()
    here = {(group["name"].iloc[0], group["resolution"].iloc[0], group["steps"].iloc[0]): group for group in groups}
    parts = []
    for key, rows in points.groupby(["model", "resolution", "steps"]):
        if key not in here:
            left_out.append(
                f"left out: {len(rows)} published ablations of {key[0]} at {key[2]:,} steps: not of these runs"
            )
            continue
        of_run = here[key].iloc[0]
        parts.append(rows.assign(panel=of_run["panel"], family=of_run["family"], name=of_run["name"]))
    whole = pd.concat(parts) if parts else pd.DataFrame()
    return whole.assign(origin=PUBLISHED, baseline=False) if len(whole) else whole


def _bars(axes: Any, panel: str, part: pd.DataFrame, label: str) -> pd.DataFrame:
    """One model's bars, the best at the top after the plain one; their numbers."""
    by = ["origin", "change", "baseline"]
    means = part.groupby(by, as_index=False).agg(fid=("fid", "mean"), seeds=("fid", "size"), name=("name", "first"))
    means["order"] = np.where(means["origin"] == PUBLISHED, 2, np.where(means["baseline"], 0, 1))
    means = means.sort_values(["order", "fid"], ignore_index=True).drop(columns="order")
    base = means.loc[means["baseline"], "fid"]
    means["difference"] = means["fid"] - base.iloc[0] if len(base) else np.nan
    means.loc[means["origin"] == PUBLISHED, "difference"] = np.nan  # another protocol: never subtracted
    colour = FAMILIES.get(str(part["family"].iloc[0]), OTHERS[0])[0]
    furthest = float(part["fid"].max())
    for place, row in means.iterrows():
        ours = row["origin"] != PUBLISHED
        face = (colour if row["baseline"] else lighter(colour, 0.5)) if ours else "none"
        axes.barh(place, row["fid"], 0.68, color=face, edgecolor=colour, linewidth=0.6, linestyle="-" if ours else ":")
        seeds = part.loc[(part["change"] == row["change"]) & (part["origin"] == row["origin"]), "fid"]
        if ours or len(seeds) > 1:  # several published ones: the notes disagree
            axes.plot(seeds, [place] * len(seeds), "o", color="0.15", markersize=2.5, markeredgewidth=0, zorder=4)
        text = f"{row['fid']:.4g}"
        if np.isfinite(row["difference"]) and not row["baseline"]:
            text += f" ({row['difference']:+.3g})"
        end = float(max(seeds.max(), row["fid"]))
        offset = {"textcoords": "offset points", "va": "center", "fontsize": NOTE}
        axes.annotate(text, (end, place), (4, 0), **offset)
    axes.set_yticks(range(len(means)), [textwrap.fill(change, 36) for change in means["change"]])
    axes.set(xlim=(0, furthest * 1.25), xlabel=label)
    dotted = "; dotted: published, third-party, unconfirmed" if (means["origin"] == PUBLISHED).any() else ""
    axes.set_title(f"{panel}{dotted}", loc="right", fontsize=NOTE)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    seeds_of = part.groupby(["origin", "change"])["fid"].apply(lambda fids: " ".join(f"{fid:.6g}" for fid in fids))
    means["each"] = [seeds_of[origin, change] for origin, change in zip(means["origin"], means["change"], strict=True)]
    return means.assign(panel=panel)[
        ["panel", "name", "origin", "change", "baseline", "fid", "difference", "seeds", "each"]
    ]
