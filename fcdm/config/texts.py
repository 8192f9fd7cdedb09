"""What a text of a configuration means, by its field, wherever it was said: paths, words, URIs, and no secrets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fcdm.credentials import taken_out
from fcdm.errors import UserError
from fcdm.paths import home_expanded
from fcdm.redact import is_secret

OFF, ON = ("off", "no", "false"), ("on", "yes", "true")
"""Words that YAML 1.1 reads as truth values."""


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


def refuse_secrets(options: Any, key: str = "model.options", one: str = "a model") -> None:
    """Raise UserError for a secret among a model's options, or others', however deep: they are written down."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            refuse_secrets(value, f"{key}.{name}", one)
    elif isinstance(options, list | tuple):
        for value in options:
            refuse_secrets(value, key, one)
    elif is_secret(key, options):
        raise UserError(
            f"{key} looks like a secret, and {one}'s options are written into its run's folder and to MLflow: leave it "
            "out, and read it from an environment variable"
        )
