"""The step ratios of a table: which models are compared, at which learning rates, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.seed_curves import SeedCurve, seed_curves
from fcdm.analysis.stats.step_efficiency import FLOORS, RatioRange, curve_notes, ratio_range

METRICS = {
    "fid": "floor",
    "fid_pixels": "floor_pixels",
    "fid_heldout": "floor_heldout",
    "fid_pixels_heldout": "floor_pixels_heldout",
}
"""A distance that can be compared -> the column of its floor."""
UNITS = {"steps": "steps", "train_flops": "training FLOPs", "device_seconds": "device-hours"}


@dataclass(frozen=True)
class Comparison:
    """An FCDM against the DiT of its size, each at the best of the settings that were tried."""

    a: SeedCurve
    b: SeedCurve
    floor: float
    samples: int
    tried: tuple[int, int]
    """How many settings of each were compared."""
    chosen_at: tuple[int, int]
    """Budgets at which the settings of each were compared."""
    not_compared: tuple[str, ...]
    """Settings that were not evaluated at that budget: one of them may be better."""
    at_edge: tuple[str, ...]
    """Those whose best learning rate is the lowest or highest tried: a better one may lie outside."""
    steps: RatioRange | str
    flops: RatioRange | str
    seconds: RatioRange | str
    """Over device-seconds (GPU-hours x 3600), or why there is no such ratio."""
    differs: tuple[str, ...] = ()
    """What else than the architecture is not the same on both sides: `batch_size 512 against 128`."""


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with another distance in the place of `fid`, and its floor in that of `floor`."""
    return table.assign(fid=table[metric], floor=table[METRICS[metric]])


def comparisons(table: pd.DataFrame) -> list[Comparison]:
    """Each FCDM size that has a DiT of the same letter, against the one with the smallest patch."""
    pairs = []
    for _, rows in table.groupby(["data", "resolution"], sort=True):  # FIDs of other data are another scale
        pairs += _of_one_scale(rows)
    return pairs


def _of_one_scale(table: pd.DataFrame) -> list[Comparison]:
    by_name: dict[str, list[SeedCurve]] = {}
    for line in seed_curves(table):
        by_name.setdefault(line.name, []).append(line)
    floor = float(table["floor"].median()) if table["floor"].notna().any() else float("nan")
    samples = int(table["samples"].max())
    pairs = []
    for candidates in by_name.values():
        if candidates[0].family != "fcdm":
            continue
        size = candidates[0].model
        rivals = [other for other in by_name if other.startswith(f"DiT-{size}/")]
        if not rivals:
            continue
        rival = min(rivals, key=lambda other: int(other.rsplit("/", 1)[1]))
        a, at_a, absent_a = _best(candidates)
        b, at_b, absent_b = _best(by_name[rival])
        steps, flops, seconds = (_ratio(a, b, axis, floor) for axis in UNITS)
        edge = tuple(
            best.name
            for best, rates in ((a, {x.lr for x in candidates}), (b, {x.lr for x in by_name[rival]}))
            if len(rates) > 1 and best.lr in (min(rates), max(rates))
        )
        tried = (len(candidates) - len(absent_a), len(by_name[rival]) - len(absent_b))
        absent = (*absent_a, *absent_b)
        pairs.append(Comparison(a, b, floor, samples, tried, (at_a, at_b), absent, edge, steps, flops, seconds))
    return sorted(pairs, key=lambda one: one.a.points["forward_gmacs"].iloc[0])


def incomparable(a: SeedCurve, b: SeedCurve) -> str | None:
    """Why device-seconds of two lines cannot be compared; None: they can."""
    devices = sorted({*a.devices, *b.devices})
    if "" in devices or not np.isfinite([*a.points["device_seconds"], *b.points["device_seconds"]]).all():
        return "time and device were not recorded for every run"
    if len(devices) > 1 or " + " in devices[0]:
        return f"trained on different devices ({'; '.join(devices)}), whose hours cannot be compared"
    return None


def _ratio(a: SeedCurve, b: SeedCurve, axis: str, floor: float) -> RatioRange | str:
    if axis == "device_seconds" and (why := incomparable(a, b)):
        return why
    if not (min(a.points[axis].min(), b.points[axis].min()) > 0):
        return "not recorded"
    return ratio_range(a.points[axis], a.points["fid"], b.points[axis], b.points["fid"], floor)


def _best(candidates: list[SeedCurve]) -> tuple[SeedCurve, int, list[str]]:
    """The setting with the lowest FID at one budget, the budget, and the settings that were not evaluated there.

    The budget is the largest that two settings were evaluated at: one that lags must not move the choice to an early
    budget, and one that is ahead of all others has not won.
    """
    evaluated: dict[int, dict[str, float]] = {}
    for line in candidates:
        for steps, fid in zip(line.points["steps"], line.points["fid"], strict=True):
            evaluated.setdefault(int(steps), {})[line.label] = float(fid)
    last = max(evaluated, key=lambda steps: (min(len(evaluated[steps]), 2), steps))
    at = evaluated[last]
    absent = [f"{line.label} (no FID at {last:,})" for line in candidates if line.label not in at]
    return min((line for line in candidates if line.label in at), key=lambda line: at[line.label]), last, absent


def sentence(one: Comparison) -> str:
    """What was measured, with what it depends on."""
    a, b, ratio = one.a, one.b, one.steps
    if isinstance(ratio, str):
        least = bound((a.label, a.points), (b.label, b.points), one.floor)
        return f"{a.label} against {b.label}: {ratio}.{f' {least}.' if least else ''} ({_conditions(one)})"
    text = (
        f"{a.label} reaches FID {ratio.target:.3g} after {_count(ratio.steps_a)} steps, {b.label} after "
        f"{_count(ratio.steps_b)}: {_times(ratio.ratio, 'steps')}"
    )
    if ratio.unclear:
        text += f", no clear ratio ({ratio.unclear})"
    text += f"; {ratio.lowest:.1f} to {ratio.highest:.1f} times over FID {ratio.worst:.3g} to {ratio.best:.3g}"
    if isinstance(one.flops, RatioRange):
        flops = one.flops
        text += f"; at FID {flops.target:.3g} {_times(flops.ratio, 'training FLOPs')}"
        if flops.unclear:
            text += f", no clear ratio ({flops.lowest:.1f} to {flops.highest:.1f} times)"
    else:
        text += f"; in training FLOPs: {one.flops}"
    cut = f"; FIDs under {FLOORS * one.floor:.3g}, twice the floor, refused" if ratio.cut_by_floor else ""
    return f"{text} ({_conditions(one)}{cut})."


def bound(
    a: tuple[str, pd.DataFrame],
    b: tuple[str, pd.DataFrame],
    floor: float = np.nan,
    axis: str = "steps",
    distance: str = "FID",
) -> str:
    """What can be said without extrapolation where two curves do not overlap: what one had reached, the other did not.

    `a`, `b`: name and points. "" where nothing can be said, or only of FIDs below twice the floor.
    """
    for (fast, ours), (slow, theirs) in ((a, b), (b, a)):
        reached, end = ours.iloc[0], theirs.iloc[-1]
        if reached["fid"] >= theirs["fid"].min() or reached["fid"] < FLOORS * floor:
            continue
        text = (
            f"{slow} did not reach {distance} {reached['fid']:.4g} within {_count(end['steps'])} steps; {fast} was "
            f"there after {_count(reached['steps'])} or fewer"
        )
        if end[axis] > reached[axis] > 0:
            text += f": more than {end[axis] / reached[axis]:.1f} times fewer {UNITS[axis]}"
        return text
    return ""


def how_chosen(one: Comparison) -> str:
    """Where the settings of the two come from, and which were not compared."""
    if one.tried == (1, 1):
        text = "one setting of each, not tuned here"
    else:
        at = dict.fromkeys(f"{steps:,}" for steps, tried in zip(one.chosen_at, one.tried, strict=True) if tried > 1)
        text = f"the best of {one.tried[0]} and {one.tried[1]} settings, chosen at {' and '.join(at)} steps"
    if one.not_compared:
        text += f"; not compared: {'; '.join(one.not_compared)}"
    if one.at_edge:
        text += f"; best lr of {' and '.join(one.at_edge)} at the edge of those tried"
    return text


def of_seeds(one: Comparison) -> str:
    """`one seed each`, `5 and 4 seeds`, with the seeds that are not in a mean and why."""
    a, b = one.a, one.b
    parts = ["one seed each" if (a.seeds, b.seeds) == (1, 1) else f"{a.seeds} and {b.seeds} seeds"]
    parts += [f"{line.label} without {', '.join(line.without)}" for line in (a, b) if line.without]
    return "; ".join(parts)


def _times(ratio: float, what: str) -> str:
    return f"{ratio:.1f} times fewer {what}" if ratio >= 1 else f"{1 / ratio:.1f} times more {what}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _conditions(one: Comparison) -> str:
    a, b = one.a, one.b
    floor = f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"
    rates = f"both at lr {a.lr:g}" if a.lr == b.lr else f"lr {a.lr:g} and {b.lr:g}"
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    hidden = [*curve_notes(a.label, a.points), *curve_notes(b.label, b.points)]
    parts = [f"{of_seeds(one)}, {samples}, {floor}", f"{rates}, {how_chosen(one)}", *hidden]
    return f"log FID interpolated over log steps; {'; '.join(parts)}"
