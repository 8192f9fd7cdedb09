"""Plain values to typed configs without OmegaConf, where nothing is to be converted: two hundred times faster.

OmegaConf has the last word: whatever does not have exactly its field's type goes there, to be converted or refused.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from omegaconf import MISSING

from fcdm.config.schema import FAMILIES, ModelConfig

T = TypeVar("T")
Reader = Callable[[Any], Any]


class NotExact(Exception):
    """A value is not of its field's very type, or a field is missing or unknown."""


def exactly(cls: type[T], values: Any) -> T:
    """`values`, a nested dictionary of all fields, as the dataclass. Raises NotExact."""
    readers: dict[str, Reader] = _readers(cls)  # type: ignore[arg-type]  # classes are hashable
    if type(values) is not dict or values.keys() != readers.keys():
        raise NotExact
    return cls(**{name: read(values[name]) for name, read in readers.items()})


@cache
def _readers(cls: Any) -> dict[str, Reader]:
    hints = typing.get_type_hints(cls)
    return {item.name: _reader(hints[item.name]) for item in dataclasses.fields(cls)}


def _reader(hint: Any) -> Reader:
    if hint is Any:
        return _anything
    if hint is str:
        return _text
    if hint in (int, float, bool):
        return lambda value: value if type(value) is hint else _refuse()
    if hint is ModelConfig:
        return _model
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: exactly(hint, value)
    if typing.get_origin(hint) is list:
        each = _reader(typing.get_args(hint)[0])
        return lambda value: [each(item) for item in value] if type(value) is list else _refuse()
    if typing.get_origin(hint) is dict:
        inside = _reader(typing.get_args(hint)[1])
        return lambda value: (
            {_text(key): inside(item) for key, item in value.items()} if type(value) is dict else _refuse()
        )
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if len(kinds) == 1:
            inner = _reader(kinds[0])
            return lambda value: None if value is None else inner(value)
    return lambda value: _refuse()


def _model(value: Any) -> Any:
    family = _text(value.get("family")) if type(value) is dict else ""
    return exactly(FAMILIES[family], value) if family in FAMILIES else _refuse()


def _text(value: Any) -> str:
    """A text without a meaning of its own to OmegaConf: no interpolation, no mark of a missing value."""
    return value if type(value) is str and value != MISSING and "${" not in value else _refuse()


def _anything(value: Any) -> Any:
    if type(value) is list:
        return [_anything(item) for item in value]
    if type(value) is dict:
        return {_text(key): _anything(item) for key, item in value.items()}
    if type(value) is str:
        return _text(value)
    return value if value is None or type(value) in (int, float, bool) else _refuse()


def _refuse() -> Any:
    raise NotExact
