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
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

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
    names = [path.relative_to(CONF / "model").with_suffix("").as_posix() for path in _models(CONF)]
    return sorted(names, key=_order)


def load_preset(name: str, folder: Path | None = None) -> ModelConfig:
    """The typed config of a preset of ours, else of `folder`/model (as --config-dir takes it).

    Raises UserError, with the nearest names, where there is none, and for a file of a user's that is no model.
    """
    values, defaults = _preset(name, folder)
    families = [key.split("@")[0].removeprefix("/schema/") for key in defaults if key.startswith("/schema/")]
    if len(families) != 1 or families[0] not in FAMILIES:
        raise UserError(f"model={name}: its defaults must name one schema: /schema/custom@_here_ for a model of yours")
    try:
        schema = OmegaConf.structured(FAMILIES[families[0]])
        config = OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        raise UserError(f"model={name}: {str(error).splitlines()[0]}") from None
    assert isinstance(config, ModelConfig)
    return config


def preset_setting(name: str, folder: Path | None = None) -> Setting:
    """The data and recipe that the preset's file chooses. Raises UserError as `load_preset`."""
    _, defaults = _preset(name, folder)
    _, train_defaults = _read(CONF / "train.yaml")
    data_name = _chosen("data", defaults) or train_defaults["data"]
    data, data_defaults = _read(CONF / "data" / f"{data_name}.yaml")
    recipe_name = _chosen("recipe", data_defaults) or train_defaults["recipe"]
    recipe = _recipe(recipe_name)
    return Setting(
        data=data_name,
        channels=data["channels"],
        classes=data["classes"],
        downsample=data["downsample"],
        resolution=recipe["resolution"],
        steps=recipe["steps"],
        batch_size=recipe["batch_size"],
    )


def _recipe(name: str) -> dict[str, Any]:
    """The recipe's own values over those of the recipes that its file begins with."""
    values, defaults = _read(CONF / "recipe" / f"{name}.yaml")
    bases = [entry for entry, choice in defaults.items() if not choice and entry != "_self_"]
    return {key: value for base in bases for key, value in _recipe(base).items()} | values


def _models(folder: Path) -> list[Path]:
    return list((folder / "model").rglob("*.yaml"))


def _preset(name: str, folder: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    known = preset_names()
    if folder is not None:
        theirs = {path.relative_to(folder / "model").with_suffix("").as_posix() for path in _models(folder)}
        if name in theirs - {*known}:
            return _read(folder / "model" / f"{name}.yaml")
        known += sorted(theirs)
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
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no mapping of keys to values")
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
