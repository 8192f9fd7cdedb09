"""`model.match_macs=L`: the width at which a variant of a model costs as many MACs as another model.

A part that is added or taken away changes what a model costs, so that variants of a block are compared at equal MACs,
as Table 6 of arXiv 2603.09408 does ("C is adjusted"). The rule: of all widths that the family can have (even ones for
FCDM, multiples of heads and of 4 for DiT, whose number of heads stays), the one whose forward MACs are nearest; of two
equally near ones the smaller. Equal MACs are not equal time: a width that is no multiple of 8 is slow on a GPU.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from fcdm.config.check import check_values, near
from fcdm.config.model_checks import check_model
from fcdm.config.presets import load_preset, off_preset, preset_names
from fcdm.config.said import Said
from fcdm.config.schema import Config, DiTConfig, FCDMConfig
from fcdm.config.shape import shape_of
from fcdm.cost.ladder import sized
from fcdm.cost.model_cost import model_cost
from fcdm.errors import UserError
from fcdm.formatting import setting_text

MOST_OFF = 0.05
"""How far the nearest width may be from the MACs that are wanted; small models have few widths."""
MOST_GMACS = 100_000
"""A number beyond it is not meant: some 200 times DiT-XL/2 at 512 px."""
WHOLE_TILES = 8
"""Tensor cores take widths that are multiples of this; others are padded, and slow for their MACs."""


@dataclass(frozen=True)
class Match:
    """The width that was found for a variant."""

    model: str
    """What it is a width of: `model=L model.expansion=1`."""
    asked: str
    """A preset's name, or GMACs."""
    width: int
    macs: int
    """Of one forward pass of the variant at that width."""
    wanted: float
    resolution: int
    """In pixels: another resolution may have another width."""

    @property
    def off(self) -> float:
        """-0.0013: 0.13 % fewer MACs than wanted."""
        return self.macs / self.wanted - 1

    def __str__(self) -> str:
        name = "are asked for" if _is_number(self.asked) else f"are {self.asked}'s"
        text = (
            f"{self.model} model.match_macs={self.asked}: width {self.width} at {self.resolution} px, "
            f"{_gmacs(self.macs)} GMACs where {_gmacs(self.wanted)} {name} ({_off_text(self.off)})"
        )
        if self.width % WHOLE_TILES:
            text += f"; no multiple of {WHOLE_TILES}: to be compared at equal MACs, never by device-hours"
        return text


def settle_width(config: Config, said: Said) -> Match | None:
    """Gives the model the width that `model.match_macs` asks for, in place; None where it asks for nothing.

    The key is null then: what was asked for is the width, and a run with that width typed by hand is the same run.
    Raises UserError where the width is said too, or no width comes near.
    """
    model = config.model
    asked = getattr(model, "match_macs", None)
    if asked is None:
        return None
    assert isinstance(model, FCDMConfig | DiTConfig)  # no other family has the key
    if "model.width" in said.keys:
        if "model.match_macs" not in said.keys:  # a preset's: what the user says comes first
            model.match_macs = None
            return None
        raise UserError(
            f"model.match_macs={asked} finds the width and model.width={model.width} says it: leave one of them away"
        )
    check_values(config)
    place: dict[str, Any] = {"resolution": config.resolution, "downsample": config.data.downsample}
    shape = shape_of(config)
    check_model(replace(model, width=_multiple(model)), shape["side"], **place)
    found = _nearest(model, asked, _wanted(asked, shape, place), shape, config.resolution)
    model.name = re.sub(
        rf"^(fcdm|dit)/w{model.width}(?=-|$)", rf"\g<1>/w{found.width}", model.name
    )  # a rung's, no longer
    model.width, model.match_macs = found.width, None
    return found


def _wanted(asked: str, shape: dict[str, Any], place: dict[str, Any]) -> float:
    """The MACs that are asked for: of a preset at the run's own resolution and data, or GMACs as they are."""
    if _is_number(asked):
        if 0 < float(asked) <= MOST_GMACS:
            return float(asked) * 1e9
        if MOST_GMACS < float(asked) < math.inf:
            meant = float(asked) / 1e9
            raise UserError(
                f"model.match_macs={asked} is in GMACs, and {MOST_GMACS:,} are the most: did you mean {meant:.4g}?"
            )
        raise UserError(f"model.match_macs={asked} cannot be: a number of GMACs above 0, or the name of a preset")
    if (rung := sized(asked, shape)) is not None:
        return model_cost(rung, **shape).forward_macs
    if asked not in preset_names():
        if same := [name for name in preset_names() if name.lower() == asked.lower()]:
            raise UserError(f"model.match_macs={asked} is no preset of ours: did you mean {same[0]}?")
        raise UserError(
            f"model.match_macs={asked} is neither a preset of ours, a size of a ladder (fcdm/64M) nor a number of "
            f"GMACs: {near(asked, preset_names())}"
        )
    preset = load_preset(asked)
    try:
        check_model(preset, shape["side"], **place)
    except UserError as error:
        raise UserError(f"model.match_macs={asked}, which does not fit: {error}") from None
    return model_cost(preset, **shape).forward_macs


def _nearest(model: FCDMConfig | DiTConfig, asked: str, wanted: float, shape: dict[str, Any], resolution: int) -> Match:
    """By bisection: MACs grow with the width. Raises UserError where the nearest is not near."""
    step = _multiple(model)
    settings = [setting_text(key, value) for key, value in off_preset(model).items() if key != "model.width"]
    name = " ".join([f"model={model.name}", *settings])

    def at(times: int) -> Match:
        width = times * step
        macs = model_cost(replace(model, width=width), **shape).forward_macs
        return Match(name, asked, width, macs, wanted, resolution)

    high = 1
    while at(high).macs < wanted:
        high *= 2
    low = high // 2  # its MACs are below what is wanted, or it is 0, which is no width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).macs < wanted else (low, middle)
    around = [at(times) for times in (low, high) if times]
    best = min(around, key=lambda match: abs(match.off))  # the smaller of two equal ones
    if abs(best.off) > MOST_OFF:
        widths = " and ".join(f"{match.width} at {match.off:+.1%}" for match in around)
        verb = "is" if len(around) == 1 else "are"
        raise UserError(
            f"model.match_macs={asked}: no width comes within {MOST_OFF:.0%} of {_gmacs(wanted)} GMACs, nearest {verb} "
            f"{widths}: say model.width= where one of these will do"
        )
    return best


def _multiple(model: FCDMConfig | DiTConfig) -> int:
    """Widths that can be built are multiples of this."""
    return 2 if isinstance(model, FCDMConfig) else math.lcm(4, max(1, model.heads))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _off_text(off: float) -> str:
    """`+0.05%`, `exactly`."""
    if not off:
        return "exactly"
    return f"{off:+.2%}" if abs(off) >= 0.00005 else "0.0%"


def _gmacs(macs: float) -> str:
    """`48.25`, `0.001810`."""
    return f"{macs / 1e9:.4g}"
