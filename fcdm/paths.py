"""Places on this machine as people type them: `~` is the home folder, wherever a path is said."""

from __future__ import annotations

import os
from pathlib import Path


def home_expanded(text: str) -> str:
    """`~/x` and `~name/x` with the home folder; anything else, and the home of nobody, as it stands.

    Of a URI of a file too: `sqlite:///~/mlflow.db`.
    """
    for scheme in ("sqlite:///", "file://"):
        if text.startswith(f"{scheme}~"):
            return scheme + home_expanded(text.removeprefix(scheme))
    return os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser raises where a name is nobody's


def place(text: str) -> Path:
    """A path as it was typed; of a command's option too: `type=place`."""
    return Path(home_expanded(text))
