"""An FCDM and a DiT put side by side, from the papers or from one's own runs, and what can be said of the two.

The same functions answer for both origins, so that a claim is computed in one way, whoever's points it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Line, comparisons, incomparable
from analysis.intervals import Trajectories, ratio_intervals
from analysis.published import PROTOCOL, PUBLISHED, published_curve
from analysis.step_efficiency import (
    FID_ERROR,
    FidCurve,
    budget_ratio,
    equal_fid_ratio,
    fid_curve,
    ratio_curve,
    ratio_range,
)

UNITS = {"steps": "steps", "train_pflops": "training FLOPs", "device_seconds": "device-hours"}


@dataclass(frozen=True)
class Side:
    """One half of a claim: a number where there is one, what it says, and what it rests on."""

    text: str
    rests_on: str = ""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    """The interval over training seeds, where there are several."""


@dataclass(frozen=True)
class Pair:
    """Two models at one resolution: `a` and `b` are points in order of steps, with the columns of `Line.points`."""

    name_a: str
    name_b: str
    resolution: int
    a: pd.DataFrame
    b: pd.DataFrame
    origin: str
    rests_on: str
    floor: float = np.nan
    distance: str = "FID"
    """What the FIDs are distances of: `FID`, `FID on pixels`, ..."""
    lines: tuple[Line, Line] | None = None
    """Of one's own runs."""
    differences: tuple[str, ...] = ()
    """Where the protocol is not the published one: FIDs of the two must not be compared."""

    def curves(self, axis: str) -> tuple[FidCurve, FidCurve]:
        return fid_curve(self.a[axis], self.a["fid"]), fid_curve(self.b[axis], self.b["fid"])

    def trajectories(self, axis: str) -> tuple[Trajectories, Trajectories] | None:
        return None if self.lines is None else (self.lines[0].trajectories(axis), self.lines[1].trajectories(axis))


def published_pair(table: pd.DataFrame, name_a: str, name_b: str, resolution: int) -> Pair | None:
    """Two models of the papers; None where one has no points that a line may join."""
    a, b = published_curve(table, name_a, resolution), published_curve(table, name_b, resolution)
    if a.empty or b.empty:
        return None
    a, b = a.assign(device_seconds=np.nan), b.assign(device_seconds=np.nan)
    told = []
    for name, points in ((name_a, a), (name_b, b)):
        at = ", ".join(f"{row.fid:g} at {steps_text(row.steps)}" for row in points.itertuples())
        first = points.iloc[0]
        told.append(f"{name}: {at} ({first['series']}, {first['confidence']})")
    told += _others_of(table, a) + _others_of(table, b)
    decoders = {str(points["decoder"].iloc[0]) for points in (a, b)}
    if len(decoders) > 1:
        told.append(f"decoders differ: {' and '.join(sorted(decoders))}")
    samples = ", ".join(sorted({f"FID-{count // 1000}K" for count in [*a["samples"], *b["samples"]]}))
    return Pair(name_a, name_b, resolution, a, b, PUBLISHED, f"{samples}, no guidance; " + "; ".join(told))


def _others_of(table: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """Other unguided FIDs of the same model at the same steps: how far a published FID depends on who measured it."""
    first = curve.iloc[0]
    same = table[(table["model"] == first["model"]) & (table["resolution"] == first["resolution"])]
    same = same[(same["guidance_scale"] == 1) & same["steps"].isin(curve["steps"]) & (same["series"] == "")]
    return [
        f"elsewhere {row.fid:g} at {steps_text(row.steps)} ({row.source}, {row.decoder})" for row in same.itertuples()
    ]


def pairs_of(table: pd.DataFrame, distance: str = "FID") -> list[Pair]:
    """The pairs of one's own runs: each FCDM with the DiT of its size, each at its best setting in the table."""
    protocol = table.attrs.get("protocol", {})
    differences = tuple(differences_from_published(protocol))
    found = []
    for one in comparisons(table):
        a, b = one.a, one.b
        pair = Pair(
            name_a=a.label,
            name_b=b.label,
            resolution=a.resolution,
            a=a.points,
            b=b.points,
            origin="these runs",
            rests_on=_rests_on(one, protocol),
            floor=one.floor,
            distance=distance,
            lines=(a, b),
            differences=differences,
        )
        found.append(pair)
    return found


def differences_from_published(protocol: dict[str, object]) -> list[str]:
    """`samples 10,000, published 50,000`: what makes FIDs by this protocol another scale than the published ones."""
    told = []
    for key, theirs in PROTOCOL.items():
        ours = protocol.get(key, "not recorded")
        if ours != theirs and not (key == "features" and str(ours).startswith(str(theirs))):
            told.append(f"{key} {_plain(ours)}, published {_plain(theirs)}")
    return told


def budgets(pair: Pair, steps_a: float, steps_b: float) -> Side:
    """The ratio of two budgets, with what their FIDs say."""
    fid_a, fid_b = _fid_at(pair.a, steps_a), _fid_at(pair.b, steps_b)
    found = budget_ratio(steps_a, steps_b, fid_a, fid_b)
    text = f"{times(found.ratio)}: {steps_text(steps_b)} steps over {steps_text(steps_a)}"
    if np.isnan(fid_a) or np.isnan(fid_b):
        lacking = " and ".join(
            f"{name} at {steps_text(steps)}"
            for name, steps, fid in ((pair.name_a, steps_a, fid_a), (pair.name_b, steps_b, fid_b))
            if np.isnan(fid)
        )
        text += f"; claimed, not recomputable: no FID of {lacking} was found"
    elif found.bounds_equal_fid:
        text += f"; {pair.distance} {fid_a:.4g} against {fid_b:.4g}, so at {fid_b:.4g} at least {times(found.ratio)}"
    else:
        text += f"; {pair.distance} {fid_a:.4g} against {fid_b:.4g}: says nothing of equal FID"
    return Side(text, pair.rests_on, found.ratio)


def equal_fid(pair: Pair, axis: str, target: float | None = None) -> Side:
    """The ratio at one target (None: the middle of all shared ones), how far it moves, and its interval over seeds."""
    rests_on = pair.rests_on
    if pair.lines is not None and axis == "device_seconds":
        if why := incomparable(*pair.lines):
            return Side(f"no ratio: {why}", rests_on)
        rests_on += f"; wall time of training on {pair.lines[0].devices[0]}, with whatever else that machine did"
    a, b = pair.curves(axis)
    text = ""
    if target is None:
        span = ratio_range(pair.a[axis], pair.a["fid"], pair.b[axis], pair.b["fid"], pair.floor)
        if isinstance(span, str):
            return Side(f"no ratio: {span}{_bound(pair, axis)}", rests_on)
        target = span.target
        text = f"; {times(span.lowest)} to {times(span.highest)} over {pair.distance} "
        text += f"{span.worst:.3g} to {span.best:.3g}"
        if span.cut_by_floor:
            text += f" (below twice the floor of {pair.floor:.3g} refused)"
        if span.unclear:
            text += f", so no clear ratio: {span.unclear}"
    one = equal_fid_ratio(a, b, target, pair.floor)
    if one.refused:
        return Side(f"refused: {one.refused}", rests_on)
    if np.isnan(one.ratio):
        why = " and ".join(f"{name}: {at.how}" for name, at in ((pair.name_a, one.a), (pair.name_b, one.b)))
        return Side(f"no ratio at {pair.distance} {target:.4g} ({why})", rests_on)
    text = f"{_fewer(one.ratio)} {UNITS[axis]} at {pair.distance} {target:.4g}{text}"
    if pair.distance == "FID":
        text += _sensitivity(a, b, target)
    low = high = np.nan
    if (curves := pair.trajectories(axis)) is not None:
        row = ratio_intervals(*curves, target).iloc[0]
        low, high = float(row["low"]), float(row["high"])
        if np.isfinite(low):
            ends = f"{times(low)} to {times(high) if np.isfinite(high) else 'no upper end'}"
            text += f"; 95 % interval over {len(curves[0])} and {len(curves[1])} training seeds: {ends}"
        if row["note"]:
            text += f"; {row['note']}"
    else:
        text += "; one run of each: no interval over training"
    return Side(text, rests_on, one.ratio, low, high)


def efficiency_curve(pair: Pair, axis: str = "steps") -> pd.DataFrame:
    """`ratio_curve` over all shared targets with the interval over seeds: columns low_seeds, high_seeds, note."""
    found = ratio_curve(*pair.curves(axis), pair.floor)
    curves = pair.trajectories(axis)
    if curves is None or found.empty:
        return found.assign(low_seeds=np.nan, high_seeds=np.nan, note="")
    ends = ratio_intervals(*curves, found["target"])
    return found.assign(low_seeds=ends["low"], high_seeds=ends["high"], note=ends["note"])


def macs(pair: Pair) -> Side:
    """a's forward MACs as a share of b's."""
    ours, theirs = float(pair.a["forward_gmacs"].iloc[0]), float(pair.b["forward_gmacs"].iloc[0])
    text = f"{ours / theirs:.1%} of the forward MACs: {ours:.5g} against {theirs:.5g} GMACs"
    return Side(text, "counted by python -m fcdm.cost, as torch's FlopCounterMode counts a forward pass", ours / theirs)


def compute(pair: Pair, steps_a: float, steps_b: float) -> Side:
    """b's training compute over a's at two budgets: MACs x steps, the same batch."""
    ratio = float(pair.b["forward_gmacs"].iloc[0] * steps_b / (pair.a["forward_gmacs"].iloc[0] * steps_a))
    text = f"{times(ratio)} less compute in MACs x steps ({steps_text(steps_b)} steps against {steps_text(steps_a)})"
    return Side(text, "MACs counted by python -m fcdm.cost, times the steps of the budgets; no FID enters", ratio)


def same_budget(pair: Pair, steps: float) -> Side:
    """Both FIDs at one budget, and their difference as the value (above 0: a's is lower). No ratio of steps."""
    fid_a, fid_b = _fid_at(pair.a, steps), _fid_at(pair.b, steps)
    text = f"{pair.distance} {fid_a:.4g} against {fid_b:.4g} at {steps_text(steps)} steps"
    return Side(text, pair.rests_on, fid_b - fid_a)


def smallest_budget(pair: Pair) -> tuple[float, float] | None:
    """(a's, b's) steps: b's largest budget, and a's smallest at which its FID is no higher; None: there is none."""
    end = pair.b.iloc[-1]
    enough = pair.a[pair.a["fid"] <= pair.b["fid"].min()]
    return None if enough.empty else (float(enough["steps"].iloc[0]), float(end["steps"]))


def _fewer(ratio: float) -> str:
    return f"{times(ratio)} fewer" if ratio >= 1 else f"{times(1 / ratio)} more"


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


def steps_text(steps: float) -> str:
    """2352000 -> `2.352M`."""
    for size, suffix in ((1e6, "M"), (1e3, "K")):
        if steps >= size:
            return f"{steps / size:.4g}{suffix}"
    return f"{steps:.4g}"


def _fid_at(points: pd.DataFrame, steps: float) -> float:
    found = points.loc[points["steps"] == steps, "fid"]
    return float(found.iloc[0]) if len(found) else np.nan


def _sensitivity(a: FidCurve, b: FidCurve, target: float) -> str:
    row = ratio_curve(a, b, targets=[target]).iloc[0]
    low = f"{times(row['low'])}{' or less' if row['low_open'] else ''}"
    high = f"{times(row['high'])}{' or more' if row['high_open'] else ''}"
    return f"; an error of {FID_ERROR:g} FID in one model makes it {low} to {high}"


def _bound(pair: Pair, axis: str) -> str:
    """What can be said where the curves do not overlap: from a's first point on, b's whole budget was not enough."""
    first, end = pair.a.iloc[0], pair.b.iloc[-1]
    if first["fid"] < pair.b["fid"].min() and end[axis] > first[axis]:
        return (
            f"; {pair.name_b} did not reach {pair.distance} {first['fid']:.4g} in {steps_text(end['steps'])} steps, "
            f"{pair.name_a} had it after {steps_text(first['steps'])}: more than {times(end[axis] / first[axis])} "
            f"fewer {UNITS[axis]}"
        )
    return ""


def _rests_on(one: Comparison, protocol: dict[str, object]) -> str:
    a, b = one.a, one.b
    seeds = f"{a.seeds} and {b.seeds} seeds" if (a.seeds, b.seeds) != (1, 1) else "one seed each"
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    sampler = " ".join(str(protocol[key]) for key in ("sampler", "sampling_steps") if key in protocol)
    floor = f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"
    tried = f"best of {one.tried[0]} and {one.tried[1]} settings" if one.tried != (1, 1) else "one setting of each"
    edge = f", at the edge of the learning rates for {' and '.join(one.at_edge)}" if one.at_edge else ""
    told = [f"{samples} ({sampler})" if sampler else samples, seeds, f"lr {a.lr:g} and {b.lr:g}, {tried}{edge}", floor]
    return f"{'; '.join(told)}; the evaluation's noise and labels are common to all seeds"


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
