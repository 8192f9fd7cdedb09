"""Which of the settings that a user said mean nothing here: what the schema's fields declare, applied.

What only a preset says, and what is said with the presets' own value, asks for nothing and is never refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcdm.config.keys import config_keys
from fcdm.config.said import Said
from fcdm.config.schema import Config
from fcdm.config.setting import Needs


@dataclass(frozen=True)
class Idle:
    """A setting that was said and has no effect."""

    key: str
    value: Any
    needs: Needs
    """What does not hold."""
    found: Any
    """The value of `needs.key`."""

    @property
    def where(self) -> str:
        """`at evaluation.guidance_scale=1.0`"""
        return "on a command line" if self.needs.key is None else f"at {self.needs.key}={_text(self.found)}"

    def __str__(self) -> str:
        return f"{self.key}={_text(self.value)} has no effect {self.where}: {self.needs.instead}"


def idle(config: Config, said: Said) -> dict[str, Idle]:
    """The settings that were said and have no effect in this configuration, by their keys."""
    found = {}
    for key, value in differing(config, said).items():
        for needs in config_keys()[key].needs:
            other = None if needs.key is None else value_at(config, needs.key)
            if not needs.holds(other):
                found[key] = Idle(key, value, needs, other)
                break
    return found


def differing(config: Config, said: Said) -> dict[str, Any]:
    """Key -> value of what was said with another value than the chosen presets give, as far as the schema knows it."""
    values = {key: value_at(config, key) for key in sorted(said.keys) if key in config_keys()}
    return {key: value for key, value in values.items() if said.differs(key, value)}


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key; None below a model of another family."""
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


def _text(value: Any) -> str:
    """As a command line says it."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
