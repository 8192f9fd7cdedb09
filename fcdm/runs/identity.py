"""A run's id: a hash of its whole resolved science config.

Never a timestamp and never a difference from defaults, so that the same science is the same run whatever it was
called and however it was launched, and changing a default does not change the past.

Ids survive upgrades: a key that a later version adds is left out of the canonical form while it has the value
that reproduces the behaviour before it existed (`INTRODUCED`), and the golden ids of the tests hold it to that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from fcdm.config.check import walk
from fcdm.config.schema import SCIENCE_KEYS, Config
from fcdm.config.user_code import MODEL, SCIENCE
from fcdm.errors import UserError

SCHEMA_VERSION = 1

OF_OWN_CODE: dict[str, Any] = {
    "data.conditions": {},
    **{f"{kind.section}.target": None for kind in SCIENCE if kind is not MODEL},
    **{f"{kind.section}.options": {} for kind in SCIENCE if kind is not MODEL},
    **{f"{kind.section}.source": None for kind in SCIENCE if kind is not MODEL},
}
"""Of users' own data sets, objectives and optimisers: said of a run only where it has such."""

# Dotted key -> the value with which it was introduced after schema version 1.
INTRODUCED: dict[str, Any] = {
    "diffusion.objective": "ddpm",
    "data.latents": "posterior",
    "data.normalisation": "scalar",
    "model.channel_attention": False,
    "model.channel_attention_on": "hidden",
    "model.feed_forward": False,
    "optimiser.schedule": "constant",
    "optimiser.decay_from": None,
    "optimiser.cooldown": None,
    "init_from": None,
    "init_from_weights": "ema",
    **OF_OWN_CODE,
}

MEASURED = ("channel_mean", "channel_deviation")
"""Of the data, numbers that follow from it: a store's channels are what its shards say."""

# In the config for people and for finding things, but not what a run is: the same bytes under another
# path or preset name are the same data and the same model. (A run has the width that match_macs found.)
NOT_IDENTITY = (
    *("model.name", "model.match_macs", "model.size", "data.name", "data.path", "data.vae", "data.images"),
    *(f"data.{name}" for name in MEASURED),
    *(f"optimiser.lr_{name}" for name in ("rule", "power", "base")),
    "optimiser.cooldown_share",
)


def science(config: Config) -> dict[str, Any]:
    """The science half of a configuration, as plain nested dictionaries: what is frozen in the run's folder."""
    whole = dataclasses.asdict(config)
    return {key: whole[key] for key in SCIENCE_KEYS}


def canonical(science_config: dict[str, Any]) -> str:
    """One text per science: sorted keys, no spaces, shortest exact floats; without names and paths."""
    kept = {"schema": SCHEMA_VERSION, **identifying(science_config)}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identifying(science_config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of all that makes the run what it is: no names, no later key at its introduction value."""
    return {
        key: value
        for key, value in flatten(science_config).items()
        if key not in NOT_IDENTITY and not (key in INTRODUCED and INTRODUCED[key] == value)
    }


def run_id(science_config: dict[str, Any]) -> str:
    """64 hex digits. Raises UserError where the data's checksum is not known yet."""
    if not science_config["data"]["checksum"]:
        raise UserError("the data has no checksum yet, so the run has no id: is the data there?")
    return hashlib.sha256(canonical(science_config).encode()).hexdigest()


def cooldown_of(science_config: dict[str, Any]) -> tuple[int, int] | None:
    """(start, end) in steps of a run that is a branch; None: it is none."""
    asked = science_config["optimiser"].get("cooldown")
    return None if asked is None else (int(asked[0]), int(asked[1]))


def parent_science(science_config: dict[str, Any]) -> dict[str, Any] | None:
    """What the run is that a branch leaves; None: it is no branch."""
    if cooldown_of(science_config) is None:
        return None
    return {**science_config, "optimiser": {**science_config["optimiser"], "cooldown": None, "cooldown_share": None}}


def parent_id(science_config: dict[str, Any]) -> str | None:
    """The id of the run that a branch leaves; None: it is no branch. Raises UserError without the data's checksum."""
    parent = parent_science(science_config)
    return None if parent is None else run_id(parent)


def readable_name(config: Config) -> str:
    """`dit-N-2-digits-8px`: for people; the id follows it in the folder's name. Of a branch also from where to where
    it cools down: `N-digits-8px-cooldown-900-1000`."""
    cooldown = "".join(f"-{step}" for step in config.optimiser.cooldown or ())
    name = f"{config.model.name.replace('/', '-')}-{config.data.name}-{config.resolution}px"
    return name + (f"-cooldown{cooldown}" if cooldown else "")


def flatten(nested: dict[str, Any]) -> dict[str, Any]:
    return dict(walk(nested))


def short_hash(content: Any, digits: int = 8) -> str:
    """First digits of the sha256 of a JSON-able value in canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
