"""What the figures share: readable log axes, names of numbers, legends that fit, and what goes with a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fcdm.analysis.data.labels import distance_of
from fcdm.formatting import power_text, steps_text

Drawn = tuple[Figure, pd.DataFrame]
"""A figure and the numbers in it. `attrs["left_out"]` of the numbers: lines that name what it does not show."""

NOTE = 7
"""Points: no text of a figure is smaller in print."""
LETTER = 0.058
"""Inches: how wide letters of 7 pt are on the average."""
HANDLE = 0.45
"""Inches of a legend that its letters cannot have."""
OF_EPOCHS = 0.3
"""Inches of the axis above that `epochs_above` makes."""
NARROW = 2.0
"""An axis that spans less than this factor has ticks as of a linear one."""
POWER = 0.2
"""Share of an axis that a number with an exponent takes."""
LEAST_SPAN = 1.5
"""An axis spans this factor at least, so that one point has ticks beside it."""


FID = "FID"


def file_name(name: str, distance: str) -> str:
    """Of a figure or a table: `fid_vs_steps` of FID, `distance_vs_steps` of any other distance."""
    return name if distance == FID else re.sub(r"^fid(?=_|$)", "distance", name)


def as_saved(numbers: pd.DataFrame, distance: str) -> pd.DataFrame:
    """The numbers as they are saved, with `with_left_out`'s lines. Of another distance than FID the columns say `value`
    (`value_min`, `ratio_at_value`) where they would say `fid`, and `distance` says which it is."""
    whole = with_left_out(numbers)
    if distance == FID and "distance" not in whole:
        return whole
    whole = whole.rename(columns=lambda name: re.sub(r"(^|_)fid(?=_|$)", r"\1value", name))
    return whole if "distance" in whole else whole.assign(distance=distance)


def with_left_out(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers with a column `left_out`, and a row for each line that names what is not drawn."""
    lines = pd.DataFrame({"left_out": numbers.attrs.get("left_out", [])}, dtype=object)
    whole = numbers.assign(left_out="")
    whole.attrs = {}
    return pd.concat([whole, lines], ignore_index=True) if len(lines) else whole


def fid_label(table: pd.DataFrame) -> str:
    """`FID-10k` for 10,000 samples, `FD-DINOv2-10k`; `kernel distance (classifier), 1k samples`."""
    samples, name = int(table["samples"].max()), distance_of(table)
    if samples <= 0:
        return name
    count = f"{samples // 1000}k" if samples % 1000 == 0 else str(samples)
    return f"{name}, {count} samples" if name.endswith(")") else f"{name}-{count}"


def fid_axis(table: pd.DataFrame) -> str:
    """`fid_label` as an axis has it: a long name in two lines."""
    return fid_label(table).replace(" (", "\n(")


def legend_columns(texts: list[str], width: float) -> int:
    """How many columns of a legend fit into so many inches."""
    longest = max((len(line) for text in texts for line in text.split("\n")), default=1)
    return int(np.clip(width / (LETTER * longest + HANDLE), 1, 4))


def wrapped(text: str, width: float) -> str:
    """Lines of 7 pt that fit into so many inches; names without spaces are broken as well."""
    return fill(text, max(8, int(width / LETTER)))


def shortened(text: str, most: int) -> str:
    """`my_rese…ion_v3`: at most so many letters, the beginning and the end."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def legend_below(figure: Figure, handles: Sequence[Any], texts: Sequence[str], body: float, most: int = 2) -> None:
    """A legend under the axes, in the most columns up to `most` that fit, no name cut; the figure grows by it.

    `body`: height in inches of the axes with their labels; lines above the axes and an axis of epochs are added too.
    """
    width = figure.get_figwidth()
    lines = [wrapped(text, width - HANDLE - 0.1) for text in texts]
    how: dict[str, Any] = {"loc": "outside lower center", "handler_map": {tuple: HandlerTuple(ndivide=None, pad=0.0)}}
    legend = figure.legend(handles, lines, ncols=1, **how)
    for columns in range(most, 1, -1):
        wider = figure.legend(handles, lines, ncols=columns, **how)
        (legend, rejected) = (wider, legend) if _inches(figure, wider)[0] < width - 0.1 else (legend, wider)
        rejected.remove()
        if legend is wider:
            break
    above = max((len(title.split("\n")) for axes in figure.axes if (title := axes.get_title("right"))), default=0)
    rows = figure.axes[0].get_subplotspec().get_gridspec().nrows  # type: ignore[union-attr]
    on_top = OF_EPOCHS * rows if any(axes.child_axes for axes in figure.axes) else 0.0
    figure.set_figheight(body + _inches(figure, legend)[1] + 0.125 * above + on_top)


def _inches(figure: Figure, legend: Legend) -> tuple[float, float]:
    box = legend.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def note_above(axes: Axes, lines: Sequence[str], width: float) -> None:
    """Lines of 7 pt over the axes, at the right."""
    if lines:
        axes.set_title("\n".join(wrapped(line, width) for line in lines), fontsize=NOTE, loc="right")


def log_axes(axes: Axes, across: int = 5, up: int = 7) -> None:
    """Few round numbers on both log axes, whether they show a hundredth of a decade or ten."""
    log_axis(axes.xaxis, across)
    log_axis(axes.yaxis, up)


def log_axis(which: Axis, most: int) -> None:
    """Round numbers; where the largest or smallest needs an exponent, powers of ten."""
    low, high = _wide_enough(which)
    ticks = log_ticks(low, high, most)
    powers = min(ticks) < 1e-3 or max(ticks) >= 1e5
    if powers:  # numbers of that size are read by their exponents: no others where there are two of these
        tens = [10.0**power for power in range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)]
        ticks = tens[:: -(-len(tens) // most)] if len(tens) > 1 else log_ticks(low, high, min(most, 4), POWER)
    which.set_major_locator(FixedLocator(ticks))
    which.set_minor_locator(LogLocator(subs=range(2, 10)) if 3 < high / low < 1e7 else NullLocator())
    which.set_major_formatter(FuncFormatter(_as_power if powers else _plain))
    which.set_minor_formatter(NullFormatter())


def _wide_enough(which: Axis) -> tuple[float, float]:
    """The ends of a log axis. One of a single value is made as wide as LEAST_SPAN: matplotlib shows two decades."""
    low, high = which.get_data_interval()
    if np.isfinite([low, high]).all() and low > 0 and high / low < 1 + 1e-6:
        ends = (low / LEAST_SPAN, high * LEAST_SPAN)
        which.set_view_interval(*ends, ignore=True)
    ends = which.get_view_interval()
    return float(min(ends)), float(max(ends))


def _plain(value: float, _: object = None) -> str:
    return f"{value:.6g}"


def _as_power(value: float, _: object = None) -> str:
    return power_text(value)


def log_ticks(low: float, high: float, most: int, least: float = 0.0) -> list[float]:
    """Round numbers in [low, high], the densest of a few choices that has at most `most` and none on another.

    `least`: the share of the axis that two are apart, where their texts are wide.
    """
    least = max(least, 1 / (2 * most))
    if high / low < NARROW:
        evenly = MaxNLocator(nbins=most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(f"{tick:.6g}") for tick in evenly if low <= tick <= high]
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
        apart = np.diff(np.log(ticks)).min(initial=np.inf)
        if len(ticks) <= most and apart >= np.log(high / low) * least:
            return ticks
    powers = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    return powers[:: -(-len(powers) // most)]


def epochs_above(axes: Axes, each: float | None) -> None:
    """A second axis on top, in epochs, where one step (or image) of the first is `each` of them for all that is drawn.

    After the first has its limits. None: there is no one number, and no axis.
    """
    if each is None:
        return
    above = axes.secondary_xaxis("top", functions=(lambda x: np.multiply(x, each), lambda x: np.divide(x, each)))
    low, high = axes.get_xlim()
    above.xaxis.set_major_locator(FixedLocator(log_ticks(low * each, high * each, 5)))
    above.xaxis.set_minor_locator(NullLocator())
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    above.tick_params(direction="out", length=2, pad=1)
    above.set_xlabel("Epochs")


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
