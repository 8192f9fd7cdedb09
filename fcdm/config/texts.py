"""What a text of a configuration means, by its field, wherever it was said: paths, words, URIs, and no secrets."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from fcdm.config.schema import FAMILIES, Config
from fcdm.credentials import taken_out
from fcdm.errors import UserError
from fcdm.paths import home_expanded
from fcdm.redact import is_secret

OFF, ON = ("off", "no", "false"), ("on", "yes", "true")
"""Words that YAML 1.1 reads as truth values."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A field of a schema, by its dotted key."""

    kind: Any
    """Its type: `int`, `str | None`, `list[int]`."""
    is_path: bool

    @property
    def is_text(self) -> bool:
        return self.kind in (str, str | None)

    @property
    def takes_text(self) -> bool:
        """Whether a text that is nothing else can be right."""
        return self.is_text or self.kind is Any or typing.get_origin(self.kind) is dict or self.is_group

    @property
    def is_group(self) -> bool:
        """Whether it is chosen by a name, as `model=N`."""
        return dataclasses.is_dataclass(self.kind)

    @property
    def elements(self) -> Any:
        """`list[int]` of `list[int] | None`."""
        return next(
            (kind for kind in (self.kind, *typing.get_args(self.kind)) if typing.get_origin(kind) is list), None
        )


@cache
def config_keys() -> dict[str, Key]:
    """Every dotted key that a configuration may have."""
    found = keys_of(Config)
    for family in FAMILIES.values():
        found |= keys_of(family, "model.")
    return found


def keys_of(schema: type, prefix: str = "") -> dict[str, Key]:
    """The keys of a dataclass and of those in it."""
    hints = typing.get_type_hints(schema)
    found: dict[str, Key] = {}
    for item in dataclasses.fields(schema):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind) and item.name != "model":
            found |= keys_of(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            found[f"{prefix}{item.name}"] = Key(kind, bool(item.metadata.get("path")))
    return found


def settle_texts(config: Any, prefix: str = "") -> None:
    """Make every text of a dataclass what is meant by it: `~` is the home folder, `mlflow_uri: no` is off.

    A user and password in `mlflow_uri` go to the environment. Raises UserError for a truth value in the place of a
    word.
    """
    for item in dataclasses.fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            settle_texts(value, f"{key}.")
        elif isinstance(value, str):
            setattr(config, item.name, _meant(key, value, bool(item.metadata.get("path"))))


def _meant(key: str, value: str, is_path: bool) -> str:
    if key == "mlflow_uri":
        return _tracking(value)
    if value in ("True", "False"):  # what a truth value becomes in a text's place
        words = ", ".join(ON if value == "True" else OFF)
        raise UserError(
            f"{key}={value} is a truth value, and a word belongs there: YAML reads {words} so unless quoted"
        )
    return home_expanded(value) if is_path else value


def _tracking(value: str) -> str:
    if value.lower() in OFF:
        return "off"
    if value.lower() in ON:
        raise UserError(f"mlflow_uri={value} is no store: a URI (http://host:5000), null (<runs_dir>/mlflow.db) or off")
    return taken_out(home_expanded(value))


def refuse_secrets(options: Any, key: str = "model.options") -> None:
    """Raise UserError for a secret among a model's options, however deep: they are written down."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            refuse_secrets(value, f"{key}.{name}")
    elif isinstance(options, list | tuple):
        for value in options:
            refuse_secrets(value, key)
    elif is_secret(key, options):
        raise UserError(
            f"{key} looks like a secret, and a model's options are written into its run's folder and to MLflow: "
            "leave it out, and let the model read it from an environment variable"
        )
