"""What the runs that a law was fitted to have in common: it says nothing of a run that differs in that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fcdm.atomic import plain
from fcdm.config.presets import OF_A_RUNG
from fcdm.formatting import setting_text
from fcdm.runs.identity import INTRODUCED, NOT_IDENTITY, cooldown_of, flatten

_COOLED = "optimiser.cooldown_share"
_FREE = ("seed", "optimiser.cooldown", *OF_A_RUNG)
"""What a law averages over, or is over."""
_ABSENT = "-"
"""In the place of the value of a key that a model's family has not."""


def settings_of(science_config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of a science config, of all but names, sizes and the seed; plain JSON.

    A key of a later version stands at what it was before there was one. Of a cooldown its share, in place of its steps,
    which are each budget's own.
    """
    found = {**INTRODUCED, **flatten(dict(science_config))}
    kept = {key: plain(value) for key, value in found.items() if key not in NOT_IDENTITY and key not in _FREE}
    return {**kept, _COOLED: _cooled(science_config)}


def _cooled(science_config: Mapping[str, Any]) -> float | None:
    """The share of a branch's steps in which its rate falls to 0; None: it is no branch."""
    steps = cooldown_of(dict(science_config))
    if steps is None:
        return None
    asked = science_config["optimiser"].get("cooldown_share")
    return float(asked) if asked else round(1 - steps[0] / steps[1], 6)


def common_settings(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Key -> value of what all of these have; {} of none. One that only some have is not among them."""
    first, *others = [dict(one) for one in settings] or [{}]
    return {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}


def off_common(settings: Mapping[str, Any], common: Mapping[str, Any]) -> list[str]:
    """`optimiser.lr=0.001 (theirs 0.002)`: where a run is not as they all are."""
    return [
        f"{setting_text(key, settings.get(key, _ABSENT))} (theirs {setting_text('', value)[1:]})"
        for key, value in common.items()
        if settings.get(key, _ABSENT) != value
    ]
