"""From a command line and a sweep file to the distinct choices it asks for.

A sweep file says `grids:`, a list of mappings from key to value or list of values; each is a full product, and
together they are one study (FCDM to 1M steps beside DiT to 7M: a plain product cannot say that). `steps` is never
multiplied out: several numbers of steps are budgets of one trajectory. What the command line says of a key
replaces what the grids say of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fcdm.errors import UserError


def expand(arguments: Iterable[str], grids: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The override lists of all distinct choices, in order; `steps` joined as a list in each.

    `arguments` are Hydra overrides, some of them sweeps (`model=N,M`). Raises UserError.
    """
    fixed, swept = _command_line(list(arguments))
    choices: list[list[str]] = []
    for grid in list(grids) or [{}]:
        dimensions = {**_grid(grid), **swept}
        dimensions = {key: values for key, values in dimensions.items() if key not in fixed}
        steps = dimensions.pop("steps", None)
        ends = [_override("steps", steps)] if steps is not None else []
        for values in itertools.product(*dimensions.values()):
            named = [_text(key, value) for key, value in zip(dimensions, values, strict=True)]
            choices.append([*fixed.values(), *named, *ends])
    return [list(choice) for choice in dict.fromkeys(map(tuple, choices))]


def _command_line(arguments: list[str]) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Overrides that stand as they are by key, and swept keys with their values (as override texts)."""
    try:
        parsed = OverridesParser.create().parse_overrides(arguments)
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from None
    fixed: dict[str, str] = {}
    swept: dict[str, list[Any]] = {}
    for override in parsed:
        key = override.key_or_group
        if key == "steps" and not override.is_delete():
            values = override.value()
            if override.is_sweep_override():
                values = [_parsed(text) for text in override.sweep_string_iterator()]
            elif not isinstance(values, list):
                values = [values]
            swept[key] = [
                *swept.get(key, []),
                *itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in values),
            ]
        elif override.is_sweep_override():
            swept[key] = [_Raw(f"{override.get_key_element()}={text}") for text in override.sweep_string_iterator()]
        else:
            fixed[key] = override.input_line or ""
    return fixed, swept


class _Raw(str):
    """A whole override as it stood on the command line."""


def _text(key: str, value: Any) -> str:
    return str(value) if isinstance(value, _Raw) else _override(key, value)


def _grid(grid: Any) -> dict[str, list[Any]]:
    """A grid of a sweep file with every value as a list."""
    if not isinstance(grid, Mapping):
        raise UserError(f"grids: {grid!r} is no grid; each entry is a mapping such as 'model: [N, M]'")
    dimensions = {}
    for key, value in grid.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values:
            raise UserError(f"grids: {key} is an empty list, so the grid asks for nothing")
        dimensions[str(key)] = values
    return dimensions


def _override(key: str, value: Any) -> str:
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(item) for item in value)}]"
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./@:-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _parsed(text: str) -> Any:
    return OverridesParser.create().parse_override(f"steps={text}").value()
