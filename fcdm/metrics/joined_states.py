"""States of several parts as one: arrays by name, as `np.savez` keeps them, those of a part under `<part>.<name>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray


def joined(states: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The states of the parts, by the parts' names, as one."""
    return {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}


def state_of(part: str, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The state of one part of them; empty where it has none."""
    return {key.removeprefix(f"{part}."): state[key] for key in state if key.startswith(f"{part}.")}
