"""What runs were asked with, for words such as `model=N` and `optimiser.lr=1e-4`: compared as values, not as texts."""

from __future__ import annotations

import contextlib
import re
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fcdm.atomic import read_json_if_whole
from fcdm.jobstatus.run_files import Key, protocol_of_part
from fcdm.runs.identity import flatten

GROUPS = {
    "model": "model.name",
    "data": "data.name",
    "objective": "diffusion.objective",
    "evaluation": "evaluation.where",
    "cooldown": "optimiser.cooldown_share",
}
"""Key of `fcdm.train` that chooses by name -> the key that keeps the name."""
OF_ROWS = ("steps", "protocol")
"""What differs between the rows of one run."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there


class AskedWith:
    """What a run was asked with: its science, and what only its job files keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def science(self) -> dict[str, Any]:
        try:
            content = yaml.load((self.folder / "config.yaml").read_bytes(), Loader=_Loader)
        except (OSError, yaml.YAMLError):
            return {}
        return flatten(content) if isinstance(content, dict) else {}

    @cached_property
    def parts(self) -> list[tuple[str | None, dict[str, Any]]]:
        """(protocol id, dotted key -> value) of each part of its jobs, the newest first."""
        files = [path for path in (self.folder / "jobs").glob("*.json") if path.stem.isdigit()]
        parts = [
            part
            for path in sorted(files, key=lambda path: int(path.stem), reverse=True)
            for part in read_json_if_whole(path).get("parts") or []
            if isinstance(part, dict)
        ]
        return [(protocol_of_part(part), flatten(part)) for part in parts]

    @property
    def keys(self) -> set[str]:
        known = {key for _, part in self.parts for key in part} | self.science.keys()
        return known | {group for group, key in GROUPS.items() if key in known}

    def value(self, name: str, at: Key) -> str | None:
        """The value of a key, as a text to compare; None: the run does not say."""
        budget, protocol = at
        key = GROUPS.get(name, name)
        if key in OF_ROWS:
            return plain(budget) if key == "steps" else protocol
        if key in self.science:
            return plain(self.science[key])
        for known, part in self.parts:
            if key in part and (known == protocol or not key.startswith("evaluation.")):
                return plain(part[key])
        return None


def alternatives(text: str) -> list[str]:
    """`N,M` -> N, M; a list in brackets is one value."""
    return re.split(r",(?![^\[]*\])", text)


def is_same(text: str | None, wanted: str) -> bool:
    """Whether a value, as `AskedWith.value` gives it, is what was typed, or of its pattern."""
    return text is not None and (text == plain(wanted) or fnmatchcase(text, wanted))


def plain(value: Any) -> str:
    """One text for what means the same: 1e-4 and 0.0001, true and True, [1, 2] and [1,2]."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(plain, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        return f"[{','.join(map(plain, alternatives(text[1:-1])))}]"
    text = text.strip("'\"")
    with contextlib.suppress(ValueError):
        return str(int(text))
    with contextlib.suppress(ValueError):
        return f"{float(text):.0f}" if float(text).is_integer() else repr(float(text))
    return text.lower() if text.lower() in ("null", "true", "false") else text
