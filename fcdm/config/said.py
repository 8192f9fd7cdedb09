"""What of a configuration the user said, and what the presets say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    """Which keys the user gave a value, wherever: on the command line, in a grid, in a sweep file of theirs.

    A preset that was chosen (`model=N`) is no key. What a preset's own file says is not the user's saying.
    """

    keys: frozenset[str] = frozenset()
    """Dotted: `data.path`; said with the presets' own value, too."""
    presets: Mapping[str, Any] | None = None
    """Dotted key -> what the chosen presets alone give it, before interpolation; None: not known (nothing is said)."""

    def differs(self, key: str, value: Any) -> bool:
        """Whether this value of a key is another than the presets give."""
        return self.presets is None or key not in self.presets or self.presets[key] != value


NOTHING = Said()
