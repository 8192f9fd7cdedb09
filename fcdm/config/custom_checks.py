"""What a user's own model is told by, before any of its code is looked at."""

from __future__ import annotations

import math
import re
from typing import Any

from fcdm.config.custom_source import dotted
from fcdm.config.schema import CustomConfig
from fcdm.errors import UserError

GIVEN = ("channels", "out_channels", "side", "classes")
"""Keywords that every model is built with: they follow from the data and the objective."""
CHECKPOINTING = "activation_checkpointing"


def check_custom(config: CustomConfig) -> None:
    """Raise UserError for a name, target or option that cannot be."""
    dotted(config.target)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", config.name):
        raise UserError(f"model.name={config.name!r} is no name for a folder: letters, digits, dots, - and _ only")
    for name, value in config.options.items():
        if not str(name).isidentifier():
            raise UserError(f"model.options.{name}: no name that Python could take as a keyword")
        if name in (*GIVEN, CHECKPOINTING):
            other = CHECKPOINTING if name == CHECKPOINTING else "the data and the objective"
            raise UserError(f"model.options.{name} cannot be set: it follows from {other}")
        _check_value(f"model.options.{name}", value)


def _check_value(key: str, value: Any) -> None:
    """Plain values only: they are part of the run's id."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or "." in name:
                raise UserError(f"{key}: {name!r} cannot be a key: keys of a mapping are texts without dots")
            _check_value(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _check_value(f"{key}[{at}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} cannot be: a number must be finite")
    elif not (value is None or isinstance(value, str | int | float)):
        raise UserError(f"{key}={value!r} is no plain value: numbers, texts, true, false, null, lists and mappings")
