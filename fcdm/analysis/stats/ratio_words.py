"""Ratios and their ends in words, the same wherever they are told: above 1 `fewer`, below it `more`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fcdm.analysis.stats.step_efficiency import FLOORS, RatioRange

UNITS = {"steps": "steps", "images": "images", "train_flops": "training FLOPs", "device_seconds": "device-hours"}
"""An axis of a table -> what it is counted in."""


def no_clear(ratio: RatioRange, unit: str, distance: str = "FID") -> str:
    """`no clear ratio of steps: 1.1x more at FID 17.6 to 1.3x fewer at FID 2.02; it lies on both sides of 1`."""
    return f"no clear ratio of {unit}: {over_targets(ratio, distance)}; {ratio.unclear}"


def over_targets(ratio: RatioRange, distance: str = "FID") -> str:
    """`3.0x at FID 19.7 to 2.5x at FID 2.04`: the highest FID first, its ratio with it; then extremes inside.

    Below 1 it is told the other way round, as the headline is, and every number says so: `4.1x more at FID 17.6`.
    """
    named = f"{distance} " if distance else ""
    again = named if distance == "FID" else ""
    tell = worded if ratio.lowest < NOT_ONE else times
    ends = (tell(ratio.at_worst), tell(ratio.at_best))
    if ends[0] == ends[1]:
        text = f"{ends[0]} from {named}{ratio.worst:.3g} to {again}{ratio.best:.3g}"
    else:
        text = f"{ends[0]} at {named}{ratio.worst:.3g} to {ends[1]} at {again}{ratio.best:.3g}"
    extremes = [
        (ratio.lowest, ratio.lowest_at, ratio.lowest < min(ratio.at_worst, ratio.at_best)),
        (ratio.highest, ratio.highest_at, ratio.highest > max(ratio.at_worst, ratio.at_best)),
    ]
    names = ("lowest", "highest")
    if ratio.highest < 1:  # the highest of these is the fewest times more
        extremes.reverse()
    inside = [
        f"{word} {tell(extreme)} at {at:.3g}"
        for word, (extreme, at, beyond) in zip(names, extremes, strict=True)
        if beyond and tell(extreme) not in ends
    ]
    return text + (f" ({', '.join(inside)})" if inside else "")


NOT_ONE = 1 - 1e-6
"""Ratios below this are told as `more`; above, a computed 1 is 1."""


def worded(ratio: float) -> str:
    """`3.0x fewer`, `4.1x more`: b's amount over a's, told of a."""
    return f"{times(ratio)} fewer" if ratio >= NOT_ONE else f"{times(1 / ratio) if ratio > 0 else 'any number'} more"


def between(low: float, high: float, headline: float) -> str:
    """Two ends of a ratio in the headline's direction: `2.2x to 2.8x`, `1.1x more to 1.4x fewer`, `2.0x more to 3.0x
    more`; `no upper end` where one is open."""
    return " to ".join(ends_told(low, high, headline))


def ends_told(low: float, high: float, headline: float) -> list[str]:
    """Each end by itself, in the order in which they are told: from below, or where the headline says `more`, above."""
    if headline >= NOT_ONE and low >= NOT_ONE:
        ends = [times(end) if np.isfinite(end) else "no upper end" for end in (low, high)]
    else:
        ends = [worded(end) if np.isfinite(end) and end > 0 else "no upper end" for end in (low, high)]
        ends = ends[::-1] if headline < NOT_ONE else ends
    return ends


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


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
        counted = "images" if axis == "images" else "steps"
        text = (
            f"{slow} did not reach {distance} {reached['fid']:.4g} within {amount_text(end[counted])} {counted}; "
            f"{fast} was there after {amount_text(reached[counted])} or fewer"
        )
        if end[axis] > reached[axis] > 0:
            text += f": more than {end[axis] / reached[axis]:.1f} times fewer {UNITS[axis]}"
        return text
    return ""


def times_told(ratio: float, what: str) -> str:
    """`2.5 times fewer steps`."""
    return f"{ratio:.1f} times fewer {what}" if ratio >= 1 else f"{1 / ratio:.1f} times more {what}"


def amount_text(number: float) -> str:
    """`1,234`, `0.0123`: an amount of steps, FLOPs or hours."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
