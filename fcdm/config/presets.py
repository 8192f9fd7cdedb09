"""The model presets as typed configs, read from `fcdm/conf/model/*.yaml` without composing (and without torch).

The values live in those files only; so do those of the data and the recipe that a preset is meant for.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fcdm.config.schema import FAMILIES, ModelConfig
from fcdm.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
_SIZES = ("N", "M", "S", "B", "L", "XL")


@dataclass(frozen=True)
class Setting:
    """What a preset is trained on, unless the user says otherwise."""

    data: str
    channels: int
    classes: int
    downsample: int
    """Image pixels per side of one latent pixel."""
    resolution: int
    steps: int
    batch_size: int


def preset_names() -> list[str]:
    """All model presets as `model=` takes them: FCDM first, then DiT, small to large."""
    root = CONF / "model"
    names = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")]
    return sorted(names, key=_order)


def load_preset(name: str) -> ModelConfig:
    """The typed config of a preset. Raises UserError, with the nearest names, where there is none."""
    values, defaults = _preset(name)
    (family,) = (key.split("@")[0] for key in defaults if key.startswith("/schema/"))
    schema = OmegaConf.structured(FAMILIES[family.removeprefix("/schema/")])
    config = OmegaConf.to_object(OmegaConf.merge(schema, values))
    assert isinstance(config, ModelConfig)
    return config


def preset_setting(name: str) -> Setting:
    """The data and recipe that the preset's file chooses. Raises UserError as `load_preset`."""
    _, defaults = _preset(name)
    _, train_defaults = _read(CONF / "train.yaml")
    data_name = _chosen("data", defaults) or train_defaults["data"]
    data, data_defaults = _read(CONF / "data" / f"{data_name}.yaml")
    recipe_name = _chosen("recipe", data_defaults) or train_defaults["recipe"]
    recipe, _ = _read(CONF / "recipe" / f"{recipe_name}.yaml")
    return Setting(
        data=data_name,
        channels=data["channels"],
        classes=data["classes"],
        downsample=data["downsample"],
        resolution=recipe["resolution"],
        steps=recipe["steps"],
        batch_size=recipe["batch_size"],
    )


def _preset(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    known = preset_names()
    if name not in known:  # also keeps names such as ../data/digits out of the path
        lower = {preset.lower(): preset for preset in known}
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
        raise UserError(f"model={name}: no such preset; {hint}")
    return _read(CONF / "model" / f"{name}.yaml")


@cache
def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A file of the Hydra tree: its own values and its defaults list (group to choice; bare entries to '').

    Read once a process, and by nobody changed.
    """
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    defaults: dict[str, str] = {}
    for entry in plain.pop("defaults", []):
        defaults.update(entry if isinstance(entry, dict) else {entry: ""})
    return plain, defaults


def _chosen(group: str, defaults: dict[str, str]) -> str | None:
    """The option in `- override /group@package: option` of a defaults list."""
    prefix = f"override /{group}"
    return next((option for key, option in defaults.items() if key.split("@")[0] == prefix), None)


def _order(name: str) -> tuple[bool, int, int, str]:
    family, _, variant = name.rpartition("/")
    size, _, patch = variant.partition("-")
    rank = _SIZES.index(size) if size in _SIZES else len(_SIZES)
    return (family != "", rank, int(patch) if patch.isdigit() else 0, name)
