"""The model presets as typed configs, read from `fcdm/conf/model/*.yaml` without composing (and without torch).

The values live in those files only. A command composes instead (`fcdm.sweep.compose`): then come the keys that a user
says, and the data and the recipe that a preset is meant for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fcdm.config.check import near, walk
from fcdm.config.schema import FAMILIES, ModelConfig
from fcdm.errors import UserError

MODELS = Path(__file__).resolve().parent.parent / "conf" / "model"
_NO_SETTINGS = ("model.name", "model.size", "model.match_macs", "model.source")
"""Of a model: its name, and what was found from others of its keys."""
OF_A_RUNG = ("model.width", "model.blocks", "model.depth", "model.heads")
"""What follows from a size of a ladder."""
_SIZES = ("N", "M", "S", "B", "L", "XL")


def preset_names() -> list[str]:
    """All model presets as `model=` takes them: FCDM first, then DiT, small to large."""
    return sorted((path.relative_to(MODELS).with_suffix("").as_posix() for path in MODELS.rglob("*.yaml")), key=_order)


def load_preset(name: str) -> ModelConfig:
    """The typed config of a preset of ours. Raises UserError, with the nearest names, where there is none."""
    if name not in preset_names():  # also keeps names such as ../data/digits out of the path
        raise UserError(f"model={name} is not known: {near(name, preset_names())}")
    family, values = _read(name)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FAMILIES[family]), values))
    assert isinstance(config, ModelConfig)
    return config


def off_preset(model: ModelConfig, preset: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Dotted key (`model.width`) -> the model's value, of the keys in which it is not its preset.

    `preset`: dotted key -> value; None: those of our preset of the model's name. Without one nothing is said.
    """
    if preset is None:
        if model.name not in preset_names():
            return {}
        preset = _dotted(load_preset(model.name))
    if preset.get("model.size") is not None:
        preset = {**preset, **{key: value for key, value in _dotted(model).items() if key in OF_A_RUNG}}
    return {
        key: value
        for key, value in _dotted(model).items()
        if key not in _NO_SETTINGS and (key not in preset or preset[key] != value)
    }


def _dotted(model: ModelConfig) -> dict[str, Any]:
    return dict(walk(dataclasses.asdict(model), "model."))


@cache
def _read(name: str) -> tuple[str, dict[str, Any]]:
    """Family and values of a preset's file; read once a process, and by nobody changed."""
    values = OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    (family,) = (
        entry.removeprefix("/schema/").removesuffix("@_here_")
        for entry in plain.pop("defaults")
        if isinstance(entry, str)
    )
    return family, plain


def _order(name: str) -> tuple[bool, int, int, str]:
    family, _, variant = name.rpartition("/")
    size, _, patch = variant.partition("-")
    rank = _SIZES.index(size) if size in _SIZES else len(_SIZES)
    return (family != "", rank, int(patch) if patch.isdigit() else 0, name)
