"""How lines look, the same in every figure: the family by colour, dashes and markers, the size by shade and marker.

Colours of Okabe and Ito, told apart by colour-blind readers; in grey the dashes and markers still differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from fcdm.analysis.data.seed_curves import SeedCurve

STYLE = Path(__file__).with_name("fcdm.mplstyle")
"""Of every figure: fonts, sizes, ticks."""
SINGLE, DOUBLE = 2.7, 5.5
"""Inches: two figures side by side, and the whole width, in the 5.5 in of NeurIPS and ICLR; SINGLE fits any column."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
Colour = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""
FAMILIES: dict[str, tuple[str, Any]] = {"fcdm": (BLUE, "-"), "dit": (VERMILLION, (0, (4, 1.5)))}
OTHERS = ((GREEN, (0, (1, 1))), (PURPLE, (0, (5, 1, 1, 1))))
MARKERS = "osD^vPX*"
"""Of what belongs to no family."""
SHAPES = {"fcdm": "oDvp", "dit": "s^<>"}
"""The first is the family's own; no shape belongs to two families."""
OTHER_SHAPES = ("d8*", "XPH")
PALEST = 0.6
"""White in the colour of the smallest of many models."""


@dataclass(frozen=True)
class Look:
    """What tells a family apart: each of the three by itself."""

    colour: str
    dashes: Any
    markers: str

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot` and of a legend's `Line2D`."""
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.markers[0], "markeredgecolor": "white"}

    @property
    def hollow(self) -> dict[str, Any]:
        """The same for what others published."""
        face = {"markerfacecolor": "white", "markeredgecolor": self.colour, "markeredgewidth": 0.9}
        return {**self.line, **face, "lw": 0.8}


def family_looks(families: Iterable[str]) -> dict[str, Look]:
    """Family -> its look. FCDM and DiT have theirs everywhere; users' families take turns, in order of their names."""
    looks = {family: Look(colour, dashes, SHAPES[family]) for family, (colour, dashes) in FAMILIES.items()}
    for place, family in enumerate(sorted(set(families) - set(FAMILIES))):
        turn, at = divmod(place, len(OTHERS))
        markers = OTHER_SHAPES[at][turn % len(OTHER_SHAPES[at]) :] + OTHER_SHAPES[at]  # the next turn: other shapes
        colour, dashes = OTHERS[at]
        looks[family] = Look(colour, dashes, markers[: len(OTHER_SHAPES[at])])
    return looks


def label_looks(families: Mapping[str, str]) -> dict[str, Look]:
    """Label -> its look, where `families` says whose it is; several of one family differ in shade and marker."""
    looks, found = family_looks(families.values()), {}
    for label, family in families.items():
        own = [other for other, its in families.items() if its == family]
        place, look = own.index(label), looks[family]
        turn = place % len(look.markers)
        markers = look.markers[turn:] + look.markers[:turn]
        found[label] = Look(to_hex(shade(look.colour, place, len(own))), look.dashes, markers)
    return found


def family_of(name: str) -> str:
    """The family of a model by its name in the papers: `DiT-XL/2` -> `dit`; another's own name otherwise."""
    return {"FCDM": "fcdm", "DiT": "dit"}.get(name.partition("-")[0], name)


def line_styles(lines: list[SeedCurve]) -> dict[str, dict[str, Any]]:
    """Label -> keywords of `Axes.plot`. Within a family from the smallest model (light) to the largest (dark).

    As long as there are shapes each curve of a family has one of the family's own; of more all have the first.
    """
    styles: dict[str, dict[str, Any]] = {}
    looks = family_looks(line.family for line in lines)
    for family in sorted({line.family for line in lines}):
        look = looks[family]
        members = sorted(
            (line for line in lines if line.family == family),
            key=lambda line: (line.points["forward_gmacs"].iloc[0], line.label),
        )
        few = len(members) <= len(look.markers)
        for place, line in enumerate(members):
            style = {**look.line, "color": shade(look.colour, place, len(members))}
            style |= {"marker": look.markers[place]} if few else {"markersize": 3, "lw": 0.9}
            styles[line.label] = style | rim(line.cooldown)
    return styles


def rim(cooldown: float) -> dict[str, Any]:
    """What tells cooled points, in every figure: dark rims, where others have white ones."""
    return {"markeredgecolor": "0.1", "markeredgewidth": 0.7} if cooldown else {}


def shade(colour: str | Colour, place: int, of: int) -> Colour:
    """From pale (place 0) to full (the last): sizes of a family, or budgets."""
    return lighter(colour, PALEST * (1 - (place + 1) / of) if of > 1 else 0.0)


def lighter(colour: str | Colour, share: float) -> Colour:
    """The colour mixed with this share of white."""
    red, green, blue = (part + (1 - part) * share for part in to_rgb(colour))
    return red, green, blue


def published_handle() -> Line2D:
    """The legend's entry of hollow points."""
    return Line2D([], [], color="0.35", marker="o", markerfacecolor="white", lw=0.8, linestyle="none")
