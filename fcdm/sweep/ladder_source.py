"""`model=fcdm/64M` as Hydra sees it: an option of the group `model` for each size of a ladder, made when it is asked.

All but its size is as in the preset of the same family that is nearest in size, by ratio: data, recipe, resources. What
the size stands for is found once the data and the resolution are known (`fcdm.cost.ladder.settle_size`).
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from fcdm.config.presets import MODELS, load_preset, preset_names
from fcdm.config.schema import DiTConfig, FCDMConfig
from fcdm.cost.ladder import LadderSize
from fcdm.cost.model_cost import model_cost

SCHEME = "fcdm-ladder"
PLACE = f"{SCHEME}://sizes"
DIGITS: dict[str, Any] = {"channels": 1, "side": 8, "classes": 10}
LATENTS: dict[str, Any] = {"channels": 4, "side": 32, "classes": 1000}
"""What presets are meant for."""


def size_of_option(path: str) -> tuple[str, LadderSize] | None:
    """`model/fcdm/64M` -> (`fcdm`, the size); None: no size of a ladder."""
    found = re.fullmatch(r"model/(fcdm|dit)/(.+?)(?:\.yaml)?", path)
    size = LadderSize.of_text(found[2]) if found else None
    if found is None or size is None or (size.patch is not None and found[1] != "dit"):
        return None
    return found[1], size


def read_option(path: str) -> ConfigResult:
    """The file that such an option would be."""
    asked = size_of_option(path)
    assert asked is not None, path
    family, size = asked
    content = OmegaConf.load(MODELS / f"{_nearest(family, size)}.yaml")
    assert isinstance(content, DictConfig)
    content["name"], content["size"] = f"{family}/{size.text}", size.text
    if size.patch is not None:
        content["patch_size"] = size.patch
    return ConfigResult(provider="fcdm", path=PLACE, config=content, header={"package": None})


@cache
def _nearest(family: str, size: LadderSize) -> str:
    """The preset of the family, of DiT with patches of 2, that is nearest in size."""
    amounts = {name: _amount(name, size.of) for name in preset_names() if ("/" in name) == (family == "dit")}
    own = {name: amount for name, amount in amounts.items() if family == "fcdm" or name.endswith("-2")}
    return min(own, key=lambda name: abs(math.log(own[name] / size.amount)))


def _amount(name: str, of: str) -> float:
    model = load_preset(name)
    assert isinstance(model, FCDMConfig | DiTConfig)
    if of == "width":
        return float(model.width)
    small = model.name.rpartition("/")[2][0] in "NM"
    cost = model_cost(model, **(DIGITS if small else LATENTS))
    return float(cost.parameters if of == "parameters" else cost.forward_macs)
