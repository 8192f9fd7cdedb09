"""A run's checkpoints as files: which there are, and whether they are what was written. Torch-free.

checkpoints/step-00000400/
    model.safetensors   ema.safetensors   optimiser.safetensors     one file for each group
    manifest.json       {"step", "files": {name: {"bytes", "sha256"}}, "extra": {...}, "sha256"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fcdm.atomic import describe_oserror
from fcdm.errors import UserError
from fcdm.hashing import file_sha256
from fcdm.runs.run_paths import step_of

MANIFEST = "manifest.json"
_T = TypeVar("_T")


class CannotEvaluate(UserError):
    """What a budget is to be evaluated with is not there, or another now: its own matter, none of the training."""


class BrokenCheckpoint(CannotEvaluate):
    """A checkpoint that is not what was written: torn, truncated or altered."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in `folder`, whole or not, by step."""
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise describe_oserror(error, folder, "looking for checkpoints") from error
    return sorted((step, path) for path in paths if (step := step_of(path.name)) is not None)


def newest_step(folder: Path, until: int | None = None) -> int:
    """Step of the last checkpoint in `folder`, whole or not, `until` a step; 0: there is none."""
    return max((step for step, _ in checkpoints(folder) if until is None or step <= until), default=0)


def group_names(path: Path) -> list[str]:
    """Groups ("model", "ema", "optimiser", "power-0.05") of a checkpoint. Raises BrokenCheckpoint, UserError."""
    return [name.removesuffix(".safetensors") for name in read_manifest(path)["files"]]


def is_broken(path: Path) -> bool:
    """Whether the checkpoint is not what was written; reads all of it."""
    try:
        verify_all(path)
    except BrokenCheckpoint:
        return True
    return False


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of the manifest's own content, whatever its spaces and order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_reading(path / MANIFEST, Path.read_bytes))
        sound = manifest.pop("sha256") == digest(manifest)
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise BrokenCheckpoint(f"{path} is broken: its {MANIFEST} was altered or cut short")
    return dict(manifest)


def verify(path: Path, name: str, manifest: dict[str, Any]) -> None:
    expected = manifest["files"][name]
    size = _reading(path / name, lambda file: file.stat().st_size)
    if size != expected["bytes"]:
        raise BrokenCheckpoint(f"{path} is broken: {name} has {size} bytes instead of {expected['bytes']}")
    if _reading(path / name, file_sha256) != expected["sha256"]:
        raise BrokenCheckpoint(f"{path} is broken: the checksum of {name} does not agree")


def verify_all(path: Path) -> None:
    """Read every file. Raises BrokenCheckpoint, and UserError where one may not be read."""
    manifest = read_manifest(path)
    for name in manifest["files"]:
        verify(path, name, manifest)


def looks_whole(path: Path) -> bool:
    """Whether all is there, by name and size: cheap, so blind to altered bytes."""
    try:
        files = read_manifest(path)["files"]
        return all((path / name).stat().st_size == facts["bytes"] for name, facts in files.items())
    except (OSError, BrokenCheckpoint):
        return False


def _reading(path: Path, read: Callable[[Path], _T]) -> _T:
    """`read(path)`; a file that is missing makes the checkpoint broken, one that may not be read does not."""
    try:
        return read(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BrokenCheckpoint(f"{path.parent} is broken: {path.name} is missing") from error
    except OSError as error:
        raise describe_oserror(error, path, "reading the checkpoint") from error
