"""From a study's tidy table to the points of its joint laws: what one law may join, what is cut, what is refused.

A law is of one family (and patch size), on the same data at one resolution, cooled or not, by one protocol with one
sample count, of settings that were tuned alike. What mixes these is refused in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.diverged_runs import diverged, diverged_note
from fcdm.analysis.data.labels import (
    USUAL_PATCH,
    cooldowns,
    cooled_text,
    display_name,
    family_name,
    scales,
    trajectories,
)
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.analysis.stats.tuning_trials import Tuned, listed
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.laws.cuts import Cuts
from fcdm.laws.plain import MACS
from fcdm.laws.surface_points import SurfacePoints
from fcdm.laws.verdict import LOSS, is_loss


@dataclass(frozen=True)
class StudySurface:
    """The points of one law, of a study."""

    rows: pd.DataFrame
    """Of the tidy table: those that are left, in its order."""
    points: SurfacePoints
    metric: str
    """A column of the table: a loss or a distance."""
    cuts: Cuts
    notes: tuple[str, ...]
    """What was left out, and what else a reader has to know."""


def law_groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`FCDM`, `DiT/2, 16 px`, `FCDM, cooled 20 %` -> its rows: what one law may join."""
    found = {}
    for scale, of_scale in scales(table):
        patches = [
            patch_of(str(model), str(family))
            for model, family in zip(of_scale["model"], of_scale["family"], strict=True)
        ]
        for (family, patch), rows in of_scale.assign(patch=patches).groupby(["family", "patch"], sort=True):
            found[f"{family_name(str(family))}{patch}{scale}"] = rows.drop(columns="patch")
    return found


def surface_of(
    rows: pd.DataFrame,
    metric: str = LOSS,
    *,
    unit: str = MACS,
    cuts: Cuts | None = None,
    tuned: Sequence[Tuned] | None = None,
) -> StudySurface:
    """The points of one law. Raises UserError, a line, for rows that no law may join, and for too few of them."""
    if metric not in rows:
        raise UserError(f"the table has no column '{metric}'")
    cuts = cuts or Cuts()
    measured = rows[np.isfinite(rows[metric].astype(float)) & (rows[metric] > 0)]
    for why in (*mixtures(measured, metric), *_tuned_apart(measured, tuned or [])):
        raise UserError(f"no joint law: {why}")
    lost = diverged(measured)
    lines = [diverged_note(measured, lost)] if lost.any() else []
    absent = len(rows) - len(measured)
    measured = measured[~lost]
    runs = np.array(trajectories(measured))
    steps = measured["steps"].to_numpy(float)
    last = measured["steps"].groupby(runs).transform("max").to_numpy(float) if len(measured) else steps
    warmups = _warmups(measured)
    kept, cut = cuts.kept(steps, last, warmups)
    lines += cut
    notes = [*lines, *_warnings(measured[kept], metric, tuned)]
    if cuts.least_warmups and np.isnan(warmups).any():
        notes.append("warm-ups are not told by this table, so none was cut")
    if absent:
        notes.insert(0, f"left out: {plural(absent, 'point')} without a {metric} above 0")
    left = measured[kept]
    points = unchecked_points(left, metric, unit)
    try:
        points.check_enough()
    except UserError as error:
        raise UserError(f"{error}{f' ({listed(lines)})' if lines else ''}") from None
    return StudySurface(left, points, metric, cuts, tuple(notes))


def unchecked_points(rows: pd.DataFrame, metric: str, unit: str = MACS) -> SurfacePoints:
    """All measured points of rows that one law may join, however few."""
    known = rows[np.isfinite(rows[metric].astype(float)) & (rows[metric] > 0)]
    n = known["forward_gmacs"].to_numpy(float) * 1e9 if unit == MACS else known["parameters"].to_numpy(float)
    images = (known["steps"] * known["batch_size"]).to_numpy(float)
    return SurfacePoints.ordered(n, images, known[metric], list(trajectories(known)), unit)


def patch_of(model: str, family: str) -> str:
    """`/2` of a DiT, empty of families without patches."""
    if family != "dit":
        return ""
    _, slash, patch = display_name(model, family).rpartition("/")
    return f"/{patch}" if slash else f"/{USUAL_PATCH}"


def mixtures(rows: pd.DataFrame, metric: str) -> list[str]:
    """Lines on what these rows mix that no law may join."""
    several: dict[str, Callable[[], Sequence[object]]] = {
        "families": lambda: [family_name(str(one)) for one in rows["family"]],
        "patch sizes, which MACs alone do not make comparable": lambda: [
            patch_of(str(model), str(family)).strip("/")
            for model, family in zip(rows["model"], rows["family"], strict=True)
        ],
        "data sets": lambda: list(rows["data"]),
        "resolutions": lambda: list(rows["resolution"]),
        "points of cooled and of constant rates": lambda: [
            cooled_text(share).strip() or "constant" for share in cooldowns(rows)
        ],
        "protocols": lambda: list(rows["protocol_id"]),
    }
    if not is_loss(metric):
        several["sample counts, which move a distance"] = lambda: list(rows["samples"])
    found = []
    for what, values in several.items():
        different = dict.fromkeys(values())
        if len(different) > 1:
            found.append(f"it would join {what}: {listed(different)}")
    for model, of_model in rows.groupby("model", sort=False):
        labels = dict.fromkeys(of_model["label"])
        if len(labels) > 1:
            found.append(
                f"{display_name(str(model), str(of_model['family'].iloc[0]))} has {len(labels)} settings "
                f"({_some(list(labels))}): tuned and untuned runs mixed, choose one of each model"
            )
    return found


def _tuned_apart(rows: pd.DataFrame, tuned: Sequence[Tuned]) -> list[str]:
    """Lines on learning rates at the edge of their grid, and on models at a worse rate than that tuned for them."""
    found: list[str] = []
    apart: list[str] = []
    for one, own in _own_rows(rows, tuned):
        rates = one.rates()
        if one.at_edge_of_rates:
            found.append(
                f"the best learning rate of {one.name}, {one.best_rate:g}, is at the edge of those tried "
                f"({rates[0]:g} to {rates[-1]:g}): a better one may lie outside; tune on"
            )
        used = sorted(set(own["lr"]))
        if not all(map(one.as_good_as_best, used)):
            apart.append(f"{one.name} (lr {listed([f'{rate:g}' for rate in used])}, tuned to {one.best_rate:g})")
    if apart:
        found.append(f"not as tuned: {_some(apart)}: train them as tuned, or name no tuning for a law of other runs")
    return found


def _own_rows(rows: pd.DataFrame, tuned: Sequence[Tuned]) -> Iterator[tuple[Tuned, pd.DataFrame]]:
    """Each tuned model of which there are rows, with them."""
    for one in tuned:
        own = one.rows_of(rows)
        if not own.empty and one.best is not None:
            yield one, own


def _warnings(rows: pd.DataFrame, metric: str, tuned: Sequence[Tuned] | None) -> list[str]:
    notes = seen_often(rows, "images", metric) if "images" in rows else []
    batches = sorted(set(rows["batch_size"]))
    if len(batches) > 1:
        notes.append(f"batch sizes differ: {listed(batches)}")
    if tuned is not None:
        known = {one.model for one in tuned if one.best is not None}
        without = [str(model) for model in dict.fromkeys(rows["model"]) if model not in known]
        if without:
            notes.append(f"not tuned themselves: {_some(without)}")
        others = [
            f"{one.name} at {rate:g} (tuned to {one.best_rate:g})"
            for one, own in _own_rows(rows, tuned)
            for rate in sorted(set(own["lr"]))
            if not one.is_best_rate(rate)
        ]
        if others:
            notes.append(f"at a rate whose trials are as good as the best, as far as seeds tell: {_some(others)}")
    return notes


def _warmups(rows: pd.DataFrame) -> np.ndarray:
    """Steps in which each row's learning rate rises; NaN where the table does not say it."""
    known = rows["warmup_steps"] if "warmup_steps" in rows else pd.Series(np.nan, rows.index)
    return known.to_numpy(float)


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
