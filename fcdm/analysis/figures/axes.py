"""What the figures share: readable log axes, names of numbers, and what goes with a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from fcdm.formatting import steps_text

Drawn = tuple[Figure, pd.DataFrame]
"""A figure and the numbers in it. `attrs["left_out"]` of the numbers: lines that name what it does not show."""

NOTE = 7
"""Points: no text of a figure is smaller in print."""


def with_left_out(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers as they are saved: a column `left_out`, and a row for each line that names what is not drawn."""
    lines = pd.DataFrame({"left_out": numbers.attrs.get("left_out", [])}, dtype=object)
    whole = numbers.assign(left_out="")
    whole.attrs = {}
    return pd.concat([whole, lines], ignore_index=True) if len(lines) else whole


def fid_label(table: pd.DataFrame) -> str:
    """`FID-10k` for 10,000 samples; features and reference are the protocol's."""
    samples = int(table["samples"].max())
    if samples <= 0:
        return "FID"
    return f"FID-{samples // 1000}k" if samples % 1000 == 0 else f"FID-{samples}"


def legend_columns(texts: list[str], width: float) -> int:
    """How many columns of a legend fit into so many inches: letters of 7 pt are 0.06 in wide, a handle 0.35 in."""
    longest = max((len(text) for text in texts), default=1)
    return int(np.clip(width / (0.06 * longest + 0.4), 1, 4))


def log_axes(axes: Axes, across: int = 5, up: int = 7) -> None:
    """Few plain numbers on both log axes, whether they show a tenth of a decade or six."""
    log_axis(axes.xaxis, across)
    log_axis(axes.yaxis, up)


def log_axis(which: Axis, most: int) -> None:
    low, high = which.get_view_interval()
    which.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    which.set_minor_locator(LogLocator(subs=range(2, 10)) if high / low > 3 else NullLocator())
    which.set_major_formatter(FuncFormatter(_plain))
    which.set_minor_formatter(NullFormatter())


def _plain(value: float, _: object = None) -> str:
    """Plain digits where they are few: 0.02, 300, 2e9. No superscripts: they would be under 7 pt."""
    if 1e-3 <= value < 1e5:
        return f"{value:.6g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    return f"{value / 10.0**power:.3g}e{power}"


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high], the densest of a few choices that has at most `most`."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for subs in (
        np.arange(1, 10, 0.2),
        np.arange(1, 10, 0.5),
        np.arange(1, 10),
        (1, 2, 4, 6, 8),
        (1, 2, 3, 5),
        (1, 2, 5),
        (1, 3),
    ):
        ticks = [float(f"{sub * 10**decade:.6g}") for decade in decades for sub in subs]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    powers = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    return powers[:: -(-len(powers) // most)]


def step_ticks(axis: Axis, steps: list[int]) -> None:
    """The budgets themselves as ticks, those that can be told apart."""
    axis.set_major_locator(FixedLocator(_readable(steps)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: steps_text(value)))


def _readable(steps: list[int]) -> list[int]:
    """On a log axis: the last, and those a seventh of the axis apart."""
    room = np.log(steps[-1] / steps[0]) / 6 if len(steps) > 1 else 0.0
    kept = [steps[-1]]
    for value in reversed(steps[:-1]):
        if np.log(kept[-1] / value) >= room:
            kept.append(value)
    return sorted(kept)


def spread(values: list[int], most: int) -> list[int]:
    """At most `most` of them: the first, the last, and evenly between."""
    if len(values) <= most:
        return values
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]
