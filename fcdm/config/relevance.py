"""Which of the settings that a user said mean nothing here: what the schema's fields declare, applied.

What only a preset says, and what is said with the presets' own value, asks for nothing and is never refused.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from fcdm.config.said import Said
from fcdm.config.schema import FAMILIES, Config
from fcdm.config.setting import Needs, needs_of


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
        said = _text(self.value)
        return f"{self.key}={said} has no effect {self.where}: {self.needs.instead.format(value=said)}"


def idle(config: Config, said: Said) -> dict[str, Idle]:
    """The settings that were said and have no effect in this configuration, by their keys."""
    found = {}
    for key, value in differing(config, said).items():
        for needs in declared().get(key, ()):
            other = None if needs.key is None else value_at(config, needs.key)
            if not needs.holds(other):
                found[key] = Idle(key, value, needs, other)
                break
    return found


def differing(config: Config, said: Said) -> dict[str, Any]:
    """Key -> value of what was said with another value than the chosen presets give, as far as the schema knows it."""
    values = {key: value_at(config, key) for key in sorted(said.keys) if key in declared()}
    return {key: value for key, value in values.items() if said.differs(key, value)}


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key; None below a model of another family."""
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


@cache
def declared() -> dict[str, tuple[Needs, ...]]:
    """Dotted key -> what has to hold for it to have an effect, of every key of the schema."""
    found = dict(_fields(Config, "", ()))
    for family in FAMILIES.values():
        found |= dict(_fields(family, "model.", ()))
    return found


def _fields(cls: Any, prefix: str, above: tuple[Needs, ...]) -> Iterator[tuple[str, tuple[Needs, ...]]]:
    """A field needs what it declares itself, and what the section that it stands in does."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        needs = (*above, *needs_of(item))
        if dataclasses.is_dataclass(hints[item.name]) and item.name != "model":
            yield from _fields(hints[item.name], f"{prefix}{item.name}.", needs)
        else:
            yield f"{prefix}{item.name}", needs


def _text(value: Any) -> str:
    """As a command line says it."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
