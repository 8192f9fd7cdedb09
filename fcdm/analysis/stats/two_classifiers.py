"""Two classifiers of one kind, trained with two seeds: a ranking of two models that flips between them is no result."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import SECOND, is_distance
from fcdm.analysis.data.seed_curves import SeedCurve
from fcdm.analysis.stats.ratio_words import UNITS
from fcdm.analysis.stats.step_efficiency import RatioRange, ratio_range

NO_RESULT = "no result: the two classifiers disagree"


def disagreement(a: SeedCurve, b: SeedCurve, axis: str = "steps") -> str | None:
    """Why neither of two models is ahead where the distances are those of two classifiers; None: nothing is against it.

    They are ranked by their distances at the last budget that both have, and by what they spent to equal distance. One
    ranking that is another by the second classifier is enough.
    """
    first_a, first_b = a.points, b.points
    second_a, second_b = _by_second(a), _by_second(b)
    if second_a is None or second_b is None:
        return None
    shared = sorted({*first_a["steps"]} & {*first_b["steps"]})
    if shared:
        last = shared[-1]
        gaps = [_at(theirs, last) - _at(ours, last) for ours, theirs in ((first_a, first_b), (second_a, second_b))]
        if gaps[0] * gaps[1] < 0:
            one, other = _in_order(a, b, gaps[0] > 0)
            return f"{NO_RESULT}: at {last:,} steps {one} has the lower {a.distance} by one, {other} by the other"
    if axis not in UNITS:
        return None
    ratios = [
        ratio_range(ours[axis], ours["fid"], theirs[axis], theirs["fid"], float("nan"))
        for ours, theirs in ((first_a, first_b), (second_a, second_b))
    ]
    known = [one for one in ratios if isinstance(one, RatioRange) and not one.unclear]
    if len(known) == 2 and np.log(known[0].ratio) * np.log(known[1].ratio) < 0:
        fewer = _in_order(a, b, known[0].ratio > 1)
        return f"{NO_RESULT}: {fewer[0]} takes fewer {UNITS[axis]} by one, {fewer[1]} by the other"
    return None


def _by_second(line: SeedCurve) -> pd.DataFrame | None:
    """The curve by the second classifier; None where some evaluation has none."""
    column = f"fid{SECOND}"
    if column not in line.runs or not is_distance(line.runs[column]).all():
        return None
    means = line.runs.groupby("steps")[column].mean()
    return line.points.assign(fid=line.points["steps"].map(means))


def _at(points: pd.DataFrame, steps: int) -> float:
    return float(points.loc[points["steps"] == steps, "fid"].iloc[0])


def _in_order(a: SeedCurve, b: SeedCurve, a_is_ahead: bool) -> tuple[str, str]:
    return (a.label, b.label) if a_is_ahead else (b.label, a.label)
