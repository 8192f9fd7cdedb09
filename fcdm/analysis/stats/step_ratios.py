"""What can be said of two models put side by side.

The same functions answer for both origins, so that a claim is computed in one way, whoever's points it rests on.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.stats.bootstrap import Trend, ratio_intervals, ratio_trend
from fcdm.analysis.stats.claim_sides import CLAIMED, DERIVED, LEAST_REPEATS, Pair, Side
from fcdm.analysis.stats.ratio_words import (
    NOT_ONE,
    UNITS,
    between,
    bound,
    ends_told,
    no_clear,
    over_targets,
    times,
    worded,
)
from fcdm.analysis.stats.step_efficiency import (
    FLOORS,
    FidCurve,
    RatioRange,
    budget_ratio,
    equal_fid_ratio,
    noise_factor,
    ratio_curve,
)
from fcdm.analysis.stats.two_classifiers import NO_RESULT
from fcdm.formatting import steps_text


def budgets(pair: Pair, steps_a: float, steps_b: float) -> Side:
    """The ratio of two budgets, with what their FIDs say."""
    if why := pair.refusal("steps"):
        return Side(why, pair.rests_on)
    fid_a, fid_b = _fid_at(pair.a, steps_a), _fid_at(pair.b, steps_b)
    ratio = budget_ratio(steps_a, steps_b, fid_a, fid_b, pair.b.loc[pair.b["steps"] < steps_b, "fid"])
    status = pair.status
    more = ratio.ratio < NOT_ONE
    amount = worded(ratio.ratio) if more else times(ratio.ratio)
    over = (steps_a, steps_b) if more else (steps_b, steps_a)
    text = f"{amount}: {steps_text(over[0])} steps over {steps_text(over[1])}"
    if np.isnan(fid_a) or np.isnan(fid_b):
        lacking = " and ".join(
            f"{name} at {steps_text(steps)}"
            for name, steps, fid in ((pair.name_a, steps_a, fid_a), (pair.name_b, steps_b, fid_b))
            if np.isnan(fid)
        )
        text += f"; {CLAIMED}: no {pair.distance} of {lacking} was found"
        status = CLAIMED if status else ""
    elif fid_b < FLOORS * pair.floor:
        text += f"; {pair.distance} {fid_a:.4g} against {fid_b:.4g}, below {FLOORS:g} times the floor of "
        text += f"{pair.floor:.3g}, where noise decides: says nothing of equal {pair.distance}"
    elif ratio.bounds_equal_fid:
        text += f"; {pair.distance} {fid_a:.4g} against {fid_b:.4g}, so at {fid_b:.4g} "
        text += f"at {'most' if more else 'least'} {amount}"
    else:
        text += f"; {pair.distance} {fid_a:.4g} against {fid_b:.4g}: says nothing of equal {pair.distance}"
        if ratio.earlier_b <= fid_b:
            text += f", for {pair.name_b} had {ratio.earlier_b:.4g} before"
    return Side(text + pair.provisos, pair.rests_on, ratio.ratio, status=status)


def equal_fid(pair: Pair, axis: str, target: float | None = None) -> Side:
    """The ratio at one target (None: the middle of all shared ones), how far it moves, and its interval over seeds."""
    rests_on = pair.rests_on
    if why := pair.refusal(axis):
        return Side(why if why.startswith(NO_RESULT) else f"no ratio: {why}", rests_on)
    if pair.lines is not None and axis == "device_seconds":
        rests_on += f"; wall time of training on {pair.lines[0].devices[0]}, with whatever else that machine did"
    a, b = pair.curves(axis)
    text = ""
    if target is None:
        span = pair.ratios(axis)
        if isinstance(span, str):
            least = bound((pair.name_a, pair.a), (pair.name_b, pair.b), pair.floor, axis, pair.distance)
            return Side(f"no ratio: {span}{f'; {least}' if least else ''}{pair.provisos}", rests_on)
        cut = f" (below twice the floor of {pair.floor:.3g} refused)" if span.cut_by_floor else ""
        if span.unclear:
            text = f"{no_clear(span, UNITS[axis], pair.distance)}{cut}{pair.provisos}"
            return Side(text, rests_on, status=DERIVED if pair.status else "")
        target = span.target
        text = f"; {over_targets(span, pair.distance)}{cut}"
    one = equal_fid_ratio(a, b, target, pair.floor)
    if one.refused:
        return Side(f"refused: {one.refused}", rests_on)
    if np.isnan(one.ratio):
        why = " and ".join(f"{name}: {at.how}" for name, at in ((pair.name_a, one.a), (pair.name_b, one.b)))
        return Side(f"no ratio at {pair.distance} {target:.4g} ({why}){pair.provisos}", rests_on)
    text = f"{worded(one.ratio)} {UNITS[axis]} at {pair.distance} {target:.4g}{text}"
    text += _noise(pair, a, b, target) if pair.lines is not None else _sensitivity(a, b, target, pair.error)
    low = high = np.nan
    if (curves := pair.trajectories(axis)) is not None:
        row = ratio_intervals(*curves, target).iloc[0]
        low, high = float(row["low"]), float(row["high"])
        if np.isfinite(low):
            ends = between(low, high, one.ratio)
            text += f"; 95 % interval over {len(curves[0])} and {len(curves[1])} training seeds: {ends}"
            if pair.chosen_here:
                text += ", which does not hold the choice of the settings on these same seeds"
        if row["note"]:
            text += f"; {row['note']}"
    else:
        text += "; one run of each: no interval over training"
    return Side(text + pair.provisos, rests_on, one.ratio, low, high, DERIVED if pair.status else "")


def efficiency_curve(pair: Pair, axis: str = "steps") -> pd.DataFrame:
    """`ratio_curve` over all shared targets with the interval over seeds: columns low_seeds, high_seeds, note.

    Without rows where the two are not compared over this axis.
    """
    refused = np.empty(0) if pair.refusal(axis) else None
    ratios = ratio_curve(*pair.curves(axis), pair.floor, pair.error, refused)
    curves = pair.trajectories(axis)
    if curves is None or ratios.empty:
        return ratios.assign(low_seeds=np.nan, high_seeds=np.nan, note="")
    ends = ratio_intervals(*curves, ratios["target"])
    return ratios.assign(low_seeds=ends["low"], high_seeds=ends["high"], note=ends["note"])


def trend_of(pair: Pair) -> Trend | str:
    """How the ratio changes from the highest to the lowest FID that both models reach, or why there is none."""
    axis = pair.counted_in
    if why := pair.refusal(axis):
        return why
    span = pair.ratios(axis)
    if not isinstance(span, RatioRange):
        return span
    curves = pair.trajectories(axis)
    if curves is None:
        ends = (span.at_worst, span.at_best)
        return Trend(span.worst, span.best, *ends, ends[1] / ends[0], np.nan, np.nan, "one run of each")
    return ratio_trend(*curves, span.worst, span.best)


def trend(pair: Pair) -> Side:
    """Whether the ratio falls or rises towards lower FIDs: told only where the interval of the change excludes 1."""
    found = trend_of(pair)
    if isinstance(found, str):
        return Side(f"no trend is told: {found}", pair.rests_on)
    again = "FID " if pair.distance == "FID" else ""
    both = (found.at_high, found.at_low)
    tell = worded if min(both) < NOT_ONE else times
    ends = f"{tell(found.at_high)} at {pair.distance} {found.high_fid:.3g} to {tell(found.at_low)} at "
    ends += f"{again}{found.low_fid:.3g}"
    status = DERIVED if pair.status else ""
    if not np.isfinite([found.low, found.high]).all():
        why = found.note or "its interval is open"
        return Side(f"no trend is told: {ends}; {why}", pair.rests_on, found.factor, status=status)
    factor, low, high, direction = found.factor, found.low, found.high, found.direction
    if max(both) < NOT_ONE:  # told the other way round, so what falls rises
        factor, low, high = 1 / factor, 1 / high, 1 / low
        direction = {"falls": "rises", "rises": "falls"}.get(direction or "")
    interval = f"a factor of {factor:.2f} (95 % interval {low:.2f} to {high:.2f})"
    if direction is None:
        text = f"no trend is told: {ends}, {interval}: the interval holds 1"
    else:
        text = f"the ratio {direction} towards lower {pair.distance}: {ends}, {interval}"
    return Side(text, pair.rests_on, found.factor, found.low, found.high, status)


def macs(pair: Pair) -> Side:
    """a's forward MACs as a share of b's."""
    ours, theirs = float(pair.a["forward_gmacs"].iloc[0]), float(pair.b["forward_gmacs"].iloc[0])
    text = f"{ours / theirs:.1%} of the forward MACs: {ours:.5g} against {theirs:.5g} GMACs"
    return Side(
        text,
        "counted by python -m fcdm.cost, as torch's FlopCounterMode counts a forward pass",
        ours / theirs,
        status=DERIVED if pair.status else "",
    )


def compute(pair: Pair, steps_a: float, steps_b: float) -> Side:
    """b's training compute over a's at two budgets: MACs x steps, the same batch."""
    if why := pair.refusal("steps"):
        return Side(why, pair.rests_on)
    ratio = float(pair.b["forward_gmacs"].iloc[0] * steps_b / (pair.a["forward_gmacs"].iloc[0] * steps_a))
    text = f"{times(ratio)} less compute in MACs x steps ({steps_text(steps_b)} steps against {steps_text(steps_a)})"
    return Side(
        text,
        f"MACs counted by python -m fcdm.cost, times the steps of the budgets; no {pair.distance} enters",
        ratio,
        status=DERIVED if pair.status else "",
    )


def same_budget(pair: Pair, steps: float) -> Side:
    """Both FIDs at one budget, and their difference as the value (above 0: a's is lower). No ratio of steps."""
    if why := pair.refusal("steps"):
        return Side(why, pair.rests_on)
    fid_a, fid_b = _fid_at(pair.a, steps), _fid_at(pair.b, steps)
    text = f"{pair.distance} {fid_a:.4g} against {fid_b:.4g} at {steps_text(steps)} steps"
    return Side(text + pair.provisos, pair.rests_on, fid_b - fid_a, status=pair.status)


def smallest_budget(pair: Pair) -> tuple[float, float] | None:
    """(a's, b's) steps: b's first budget with its lowest FID (of those that the floor does not refuse), and a's
    smallest at which its FID is no higher; None: there is none."""
    clear = pair.b[~(pair.b["fid"] < FLOORS * pair.floor)]
    if clear.empty:
        return None
    best = clear.iloc[int(clear["fid"].argmin())]  # the first of equal ones
    enough = pair.a[pair.a["fid"] <= best["fid"]]
    return None if enough.empty else (float(enough["steps"].iloc[0]), float(best["steps"]))


def _fid_at(points: pd.DataFrame, steps: float) -> float:
    fids = points.loc[points["steps"] == steps, "fid"]
    return float(fids.iloc[0]) if len(fids) else np.nan


def _sensitivity(a: FidCurve, b: FidCurve, target: float, error: float) -> str:
    """How far the ratio moves where the FIDs of one of the two are off, and of both, against each other."""
    if np.isnan(error):
        return ""
    row = ratio_curve(a, b, error=error, targets=[target]).iloc[0]

    def ends(suffix: str) -> str:
        low, high = (float(row[f"{end}{suffix}"]) for end in ("low", "high"))
        told = ends_told(low, high, float(row["ratio"]))
        is_open = [row[f"low{suffix}_open"], row[f"high{suffix}_open"]]
        words = [" or less", " or more"]
        if row["ratio"] < NOT_ONE:
            is_open.reverse()
        return " to ".join(text + (word if at else "") for text, at, word in zip(told, is_open, words, strict=True))

    return f"; {a.distance}s of one model off by {error:.0%} make it {ends('')}, of both {ends('_both')}"


def _noise(pair: Pair, a: FidCurve, b: FidCurve, target: float) -> str:
    """The noise of evaluation and training, and the factor that one standard deviation of it is on the ratio."""
    noise = pair.noise
    parts = []
    if np.isfinite(noise.evaluation):
        factor = noise_factor(a, b, target, noise.evaluation, noise.evaluation)
        told = f"{noise.evaluation:.1%} (of {noise.repeats} repeats)"
        parts.append(f"evaluation's noise {told}, a factor of {factor:.2f} on the ratio")
    else:
        why = f"told from {noise.repeats} of {LEAST_REPEATS} repeats" if noise.repeats else "measured"
        parts.append(f"evaluation's noise not {why}")
    ours, theirs = noise.training
    if np.isfinite([ours, theirs]).all():
        factor = noise_factor(a, b, target, ours, theirs)
        parts.append(f"training's {ours:.1%} and {theirs:.1%}, a factor of {factor:.2f} for one run of each")
    else:
        parts.append("training's not known")
    return f"; {', '.join(parts)}"
