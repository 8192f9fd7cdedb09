"""The schema as dotted keys: each one's type, whether it is a path, and under which conditions it has an effect."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Set
from functools import cache
from typing import Any

from fcdm.config.schema import FAMILIES, Config
from fcdm.config.setting import Needs


@dataclasses.dataclass(frozen=True)
class Key:
    """A field of a schema, by its dotted key."""

    kind: Any
    """Its type: `int`, `str | None`, `list[int]`."""
    is_path: bool
    needs: tuple[Needs, ...]
    """What has to hold for it to have an effect: what it declares itself, and what the section it stands in does."""

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
    for keys in _of_families().values():
        found |= keys
    return found


def families_with(keys: Set[str]) -> list[str]:
    """The families of models that have all of these options (`model.kernel_size`); none for other keys."""
    return [name for name, known in _of_families().items() if keys and keys <= known.keys()]


@cache
def _of_families() -> dict[str, dict[str, Key]]:
    return {name: keys_of(family, "model.") for name, family in FAMILIES.items()}


def keys_of(schema: type, prefix: str = "", above: tuple[Needs, ...] = ()) -> dict[str, Key]:
    """The keys of a dataclass and of those in it. above: what has to hold for all of them to have an effect."""
    hints = typing.get_type_hints(schema)
    found: dict[str, Key] = {}
    for item in dataclasses.fields(schema):
        kind = hints[item.name]
        needs = (*above, *item.metadata.get("applies", ()))
        if dataclasses.is_dataclass(kind) and item.name != "model":
            found |= keys_of(typing.cast(type, kind), f"{prefix}{item.name}.", needs)
        else:
            found[f"{prefix}{item.name}"] = Key(kind, bool(item.metadata.get("path")), needs)
    return found
