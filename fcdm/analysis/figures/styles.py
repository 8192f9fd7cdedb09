"""How lines look, the same in every figure: the family by colour and dashes, the size by marker and lightness.

Colours of Okabe and Ito, told apart by colour-blind readers; in grey the dashes and markers still differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgb

from fcdm.analysis.data.seed_curves import SeedCurve

STYLE = Path(__file__).with_name("fcdm.mplstyle")
"""Of every figure: fonts, sizes, ticks."""
SINGLE, DOUBLE = 2.7, 5.5
"""Inches: two figures side by side, and the whole width, in the 5.5 in of NeurIPS and ICLR; SINGLE fits any column."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""
MARKERS = "osD^vPX*"
FAMILIES: dict[str, tuple[str, Any]] = {"fcdm": (BLUE, "-"), "dit": (VERMILLION, (0, (4, 1.5)))}
OTHERS = ((GREEN, (0, (1, 1))), (PURPLE, (0, (5, 1, 1, 1))))


def line_styles(lines: list[SeedCurve]) -> dict[str, dict[str, Any]]:
    """Label -> keywords of `Axes.plot`. Within a family from the smallest model (light) to the largest (dark)."""
    styles: dict[str, dict[str, Any]] = {}
    others = iter(OTHERS * len(lines))
    for family in sorted({line.family for line in lines}):
        colour, dashes = FAMILIES.get(family) or next(others)
        members = sorted(
            (line for line in lines if line.family == family),
            key=lambda line: (line.points["forward_gmacs"].iloc[0], line.label),
        )
        for place, line in enumerate(members):
            light = 0.45 * (1 - (place + 1) / len(members))
            styles[line.label] = {
                "color": lighter(colour, light),
                "linestyle": dashes,
                "marker": MARKERS[place % len(MARKERS)],
                "markeredgecolor": "white",
            }
    return styles


def lighter(colour: str | Colour, share: float) -> Colour:
    """The colour mixed with this share of white."""
    red, green, blue = (part + (1 - part) * share for part in to_rgb(colour))
    return red, green, blue
