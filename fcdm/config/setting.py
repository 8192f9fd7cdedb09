"""What a field of the schema says of itself besides its type and its meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass(frozen=True)
class Needs:
    """A field has an effect only where another key has one of some values."""

    key: str | None
    """The key that decides; None: a command line never does, the commands set the field themselves."""
    holds: Callable[[Any], bool]
    """Whether the field has an effect at a value of `key`."""
    instead: str
    """Why not, and what to write instead."""


def setting(default: Any = MISSING, *, applies: Needs | tuple[Needs, ...] = (), path: bool = False) -> Any:
    """A field with a default; what a function gives, or a dataclass, is made anew each time.

    applies: what has to hold for it to have an effect, all of it. path: it may name a place on this machine.
    """
    metadata = {"applies": (applies,) if isinstance(applies, Needs) else applies, "path": path}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
