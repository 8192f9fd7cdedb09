"""The step ratios of a table: which models are compared, at which learning rates, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.intervals import Trajectories
from analysis.names import display_name
from analysis.step_efficiency import FLOORS, RatioRange, ratio_range

METRICS = {
    "fid": "floor",
    "fid_pixels": "floor_pixels",
    "fid_heldout": "floor_heldout",
    "fid_pixels_heldout": "floor_pixels_heldout",
}
"""A distance that can be compared -> the column of its floor."""
AXES = ("steps", "train_pflops", "device_seconds")


@dataclass(frozen=True)
class Line:
    """One curve: a model at one setting, the mean over its seeds at the steps that every seed has."""

    label: str
    name: str
    """Without the setting: `FCDM-N`."""
    model: str
    family: str
    lr: float
    seeds: int
    points: pd.DataFrame
    """In order of steps: steps, train_pflops, device_seconds, forward_gmacs, fid, fid_min, fid_max (over seeds)."""
    runs: pd.DataFrame
    """The rows of the table that `points` are the means of: every seed at each of its steps."""

    @property
    def resolution(self) -> int:
        return int(self.runs["resolution"].iloc[0])

    @property
    def devices(self) -> list[str]:
        """What its runs were trained on: device-seconds are comparable where this is one name for both models."""
        return sorted(set(self.runs["device"]))

    def trajectories(self, axis: str = "steps") -> Trajectories:
        """Every seed's curve over `axis`, seeds in order."""
        by_seed = self.runs.assign(amount=self.runs[axis]).groupby(["seed", "steps"])[["amount", "fid"]].mean()
        amount, fid = by_seed["amount"].unstack(), by_seed["fid"].unstack()
        return Trajectories(amount.to_numpy(), fid.to_numpy(), tuple(int(seed) for seed in fid.index))


@dataclass(frozen=True)
class Comparison:
    """An FCDM against the DiT of its size, each at the best of the settings that were tried."""

    a: Line
    b: Line
    floor: float
    samples: int
    tried: tuple[int, int]
    """How many settings of each were tried."""
    at_edge: tuple[str, ...]
    """Those whose best learning rate is the lowest or highest tried: a better one may lie outside."""
    steps: RatioRange | str
    flops: RatioRange | str
    seconds: RatioRange | str
    """Over device-seconds (GPU-hours x 3600), or why there is no such ratio."""


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with another distance in the place of `fid`, and its floor in that of `floor`."""
    return table.assign(fid=table[metric], floor=table[METRICS[metric]])


def lines(table: pd.DataFrame) -> list[Line]:
    """The curves of a table: FCDM first, from small to large. What they leave out: `dropped`."""
    found = []
    table = table[np.isfinite(table["fid"])]  # a run that diverged has no FID
    for (label, _), rows in table.groupby(["label", "variant"], sort=True):
        seeds = rows["seed"].nunique()
        points = rows.groupby("steps", as_index=False).agg(
            train_pflops=("train_pflops", "first"),
            device_seconds=("device_seconds", "mean"),
            forward_gmacs=("forward_gmacs", "first"),
            fid=("fid", "mean"),
            fid_min=("fid", "min"),
            fid_max=("fid", "max"),
            judged=("seed", "nunique"),
        )
        points = points[points["judged"] == seeds].drop(columns="judged").reset_index(drop=True)
        if points.empty:
            continue  # no budget that every seed has reached yet
        first = rows.iloc[0]
        name = display_name(first["model"], first["family"])
        kept = rows[rows["steps"].isin(points["steps"])]
        found.append(Line(str(label), name, first["model"], first["family"], first["lr"], seeds, points, kept))
    return sorted(found, key=lambda line: (line.family == "dit", line.points["forward_gmacs"].iloc[0], line.label))


def dropped(table: pd.DataFrame) -> list[str]:
    """What `lines` leaves out, each in a line that names it: FIDs that are no number, budgets that a seed lacks."""
    told = []
    broken = table[~np.isfinite(table["fid"])]
    for (label, seed, run), rows in broken.groupby(["label", "seed", "run"]):
        at = ", ".join(f"{steps:,} ({fid})" for steps, fid in zip(rows["steps"], rows["fid"], strict=True))
        told.append(f"left out: {label}, seed {seed}, has no FID at {at} ({run})")
    whole = table[np.isfinite(table["fid"])]
    for (label, _), rows in whole.groupby(["label", "variant"]):
        seeds = set(rows["seed"])
        for steps, judged in rows.groupby("steps")["seed"]:
            lacking = sorted(seeds - set(judged))
            if lacking:
                which = ", ".join(map(str, lacking))
                told.append(f"left out: {label} at {steps:,} steps, which seed {which} has not been judged at")
    return told


def comparisons(table: pd.DataFrame) -> list[Comparison]:
    """Each FCDM size that has a DiT of the same letter, against the one with the smallest patch."""
    found = []
    for _, rows in table.groupby(["data", "resolution"], sort=True):  # FIDs of other data are another scale
        found += _of_one_scale(rows)
    return found


def _of_one_scale(table: pd.DataFrame) -> list[Comparison]:
    by_name: dict[str, list[Line]] = {}
    for line in lines(table):
        by_name.setdefault(line.name, []).append(line)
    floor = float(table["floor"].median()) if table["floor"].notna().any() else float("nan")
    samples = int(table["samples"].max())
    found = []
    for candidates in by_name.values():
        if candidates[0].family != "fcdm":
            continue
        size = candidates[0].model
        rivals = [other for other in by_name if other.startswith(f"DiT-{size}/")]
        if not rivals:
            continue
        rival = min(rivals, key=lambda other: int(other.rsplit("/", 1)[1]))
        a, b = _best(candidates), _best(by_name[rival])
        ratios = [_ratio(a, b, axis, floor) for axis in AXES]
        tried = (len(candidates), len(by_name[rival]))
        edge = tuple(
            best.name
            for best, rates in ((a, {x.lr for x in candidates}), (b, {x.lr for x in by_name[rival]}))
            if len(rates) > 1 and best.lr in (min(rates), max(rates))
        )
        found.append(Comparison(a, b, floor, samples, tried, edge, *ratios))
    return sorted(found, key=lambda one: one.a.points["forward_gmacs"].iloc[0])


def incomparable(a: Line, b: Line) -> str | None:
    """Why device-seconds of two lines cannot be compared; None: they can."""
    devices = sorted({*a.devices, *b.devices})
    if "" in devices or not np.isfinite([*a.points["device_seconds"], *b.points["device_seconds"]]).all():
        return "time and device were not recorded for every run"
    if len(devices) > 1 or " + " in devices[0]:
        return f"trained on different devices ({'; '.join(devices)}), whose hours cannot be compared"
    return None


def _ratio(a: Line, b: Line, axis: str, floor: float) -> RatioRange | str:
    if axis == "device_seconds" and (why := incomparable(a, b)):
        return why
    if not (min(a.points[axis].min(), b.points[axis].min()) > 0):
        return "not recorded"
    return ratio_range(a.points[axis], a.points["fid"], b.points[axis], b.points["fid"], floor)


def _best(candidates: list[Line]) -> Line:
    """The setting that has the lowest FID at the largest number of steps that all were judged at."""
    shared = set.intersection(*(set(line.points["steps"]) for line in candidates))
    if not shared:
        return min(candidates, key=lambda line: line.points["fid"].min())
    last = max(shared)
    return min(candidates, key=lambda line: float(line.points.loc[line.points["steps"] == last, "fid"].iloc[0]))


def sentence(one: Comparison) -> str:
    """What was measured, with what it depends on."""
    a, b, found = one.a, one.b, one.steps
    if isinstance(found, str):
        return f"{a.label} against {b.label}: {found}.{_bound(one)} ({_conditions(one)})"
    text = (
        f"{a.label} reaches FID {found.target:.3g} after {_count(found.steps_a)} steps, {b.label} after "
        f"{_count(found.steps_b)}: {_times(found.ratio, 'steps')}"
    )
    if found.unclear:
        text += f", no clear ratio ({found.unclear})"
    text += f"; {found.lowest:.1f} to {found.highest:.1f} times over FID {found.worst:.3g} to {found.best:.3g}"
    if isinstance(one.flops, RatioRange):
        flops = one.flops
        text += f"; at FID {flops.target:.3g} {_times(flops.ratio, 'training FLOPs')}"
        if flops.unclear:
            text += f", no clear ratio ({flops.lowest:.1f} to {flops.highest:.1f} times)"
    else:
        text += f"; in training FLOPs: {one.flops}"
    cut = f"; FIDs under {FLOORS * one.floor:.3g}, twice the floor, refused" if found.cut_by_floor else ""
    return f"{text} ({_conditions(one)}{cut})."


def _bound(one: Comparison) -> str:
    """A ratio without extrapolation where the curves do not overlap: what one had reached, the other did not."""
    for fast, slow in ((one.a, one.b), (one.b, one.a)):
        reached, best = fast.points.iloc[0], float(slow.points["fid"].min())
        end = float(slow.points["steps"].iloc[-1])
        if reached["fid"] >= best or (np.isfinite(one.floor) and reached["fid"] < FLOORS * one.floor):
            continue
        text = (
            f" {slow.label} did not reach FID {reached['fid']:.3g} within {_count(end)} steps; {fast.label} was there "
            f"after {_count(reached['steps'])} or fewer"
        )
        times = end / reached["steps"]
        return f"{text}: more than {times:.1f} times fewer steps." if times > 1 else f"{text}."
    return ""


def _times(ratio: float, what: str) -> str:
    return f"{ratio:.1f} times fewer {what}" if ratio >= 1 else f"{1 / ratio:.1f} times more {what}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _conditions(one: Comparison) -> str:
    seeds = sorted({one.a.seeds, one.b.seeds})
    told = "one seed" if seeds == [1] else f"mean of {' and '.join(map(str, seeds))} seeds"
    floor = f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"
    rates = f"both at lr {one.a.lr:g}" if one.a.lr == one.b.lr else f"lr {one.a.lr:g} and {one.b.lr:g}"
    tried = (
        "one setting of each, not tuned here"
        if one.tried == (1, 1)
        else f"the best of {one.tried[0]} and {one.tried[1]} settings"
    )
    if one.at_edge:
        tried += f"; best lr of {' and '.join(one.at_edge)} at the edge of those tried"
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    return f"FID interpolated over log steps; {told}, {samples}, {floor}; {rates}, {tried}"
