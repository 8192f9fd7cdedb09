"""Checkpoints: everything needed to continue bit for bit, in a folder that is either whole or not there.

    checkpoints/step-00000400/
        model.safetensors   ema.safetensors   optimiser.safetensors     one file for each group
        manifest.json       {"step", "files": {name: {"bytes", "sha256"}}, "extra": {...}, "sha256"}

A folder is written under a temporary name, flushed file by file, and renamed: a kill or a power cut leaves
the checkpoint or nothing. Checksums are verified before a tensor is used. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcdm.engine.tensorfile import write_tensors
from fcdm.errors import UserError
from fcdm.runs.atomic import TEMPORARY, describe_oserror, plain, sync_folder, temporary_name, write_new

MANIFEST = "manifest.json"
_TRASH = ".trash-"
_T = TypeVar("_T")

Groups = dict[str, dict[str, Tensor]]
"""Group ("model", "ema", "optimiser", "power-0.05") -> name -> tensor."""


class CannotJudge(UserError):
    """What a budget is to be judged with is not there: a matter of that budget, and none of the training."""


class BrokenCheckpoint(CannotJudge):
    """A checkpoint that is not what was written: torn, truncated or altered."""


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], extra: Mapping[str, Any]
) -> Path:
    """Writes `tensors` and `extra` (JSON) as the checkpoint of `step` into `folder`; returns its path.

    Only the run's holder may call it. A whole checkpoint of that step is left as it is; a broken one of that
    or a later step, which a resume had to skip, is replaced or removed. Takes the memory of one tensor more,
    wherever the tensors are. Raises UserError when the file system refuses; older checkpoints then stand and
    nothing else is left behind.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / temporary_name(final.name)
    try:
        for later, path in checkpoints(folder):
            if later >= step and is_broken(path):
                _remove(path)
        if final.exists():
            return final
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            files = {}
            for group, members in tensors.items():
                size, digest = write_tensors(temporary / f"{group}.safetensors", members)
                files[f"{group}.safetensors"] = {"bytes": size, "sha256": digest}
            content = {"step": step, "files": files, "extra": plain(dict(extra))}
            manifest = {**content, "sha256": _digest(content)}
            write_new(temporary / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
            sync_folder(temporary)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder)
    except OSError as error:
        gigabytes = sum(t.nbytes for members in tensors.values() for t in members.values()) / 1e9
        doing = f"saving the checkpoint of step {step} ({gigabytes:.2f} GB)"
        raise describe_oserror(error, final, doing) from error
    return final


def load_checkpoint(
    path: Path, groups: Iterable[str] | None = None, device: torch.device | str = "cpu"
) -> tuple[Groups, dict[str, Any]]:
    """The tensors of these groups (None: all), on `device`, and the manifest, once their checksums agree.

    Raises BrokenCheckpoint if they do not; UserError if a group is not in it or it may not be read.
    """
    manifest = _manifest(path)
    names = group_names(path)
    wanted = names if groups is None else list(groups)
    for group in wanted:
        if group not in names:
            raise UserError(f"{path} has no {group}, only {', '.join(names)}")
    return {group: _load_group(path, f"{group}.safetensors", manifest, device) for group in wanted}, manifest


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in `folder`, whole or not, by step."""
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise describe_oserror(error, folder, "looking for checkpoints") from error
    return sorted((int(path.name[5:]), path) for path in paths if re.fullmatch(r"step-\d+", path.name))


def group_names(path: Path) -> list[str]:
    """Groups of a checkpoint. Raises BrokenCheckpoint; UserError if it may not be read."""
    return [name.removesuffix(".safetensors") for name in _manifest(path)["files"]]


def latest_checkpoint(
    folder: Path,
    warn: Callable[[str], None],
    groups: Iterable[str] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Groups, dict[str, Any]] | None:
    """`load_checkpoint` of the newest whole one in `folder`, None if there is none.

    Each broken one on the way is told to `warn` and skipped.
    """
    wanted = None if groups is None else list(groups)
    for _, path in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(path, wanted, device)
        except BrokenCheckpoint as error:
            warn(f"{error}; using the checkpoint before it, if there is one")
    return None


def is_broken(path: Path) -> bool:
    """Whether the checkpoint is not what was written; reads all of it."""
    try:
        manifest = _manifest(path)
        for name in manifest["files"]:
            _verify(path, name, manifest)
    except BrokenCheckpoint:
        return True
    return False


def prune(folder: Path, keep: int, keep_steps: set[int]) -> None:
    """Removes all but the last `keep` checkpoints and those of `keep_steps`, and what dead writers left.

    Only the run's holder may call it. A checkpoint whose files are missing or cut short does not count as one
    of the last. Raises UserError when the file system refuses.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}: a resume needs the last checkpoint")
    present = checkpoints(folder)
    whole = [path for _, path in present if _looks_whole(path)]
    kept = set(whole[-keep:])
    try:
        for step, path in present:
            if path not in kept and step not in keep_steps:
                _remove(path)
        remove_leftovers(folder)
    except OSError as error:
        raise describe_oserror(error, folder, "removing old checkpoints") from error


def remove_leftovers(folder: Path) -> None:
    """Removes what dead writers left. Only the run's holder may call it. Raises OSError."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith((TEMPORARY, _TRASH)):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Away in one step, so that a crash within leaves no half checkpoint. Raises OSError."""
    trash = path.with_name(temporary_name(path.name).replace(TEMPORARY, _TRASH, 1))
    path.rename(trash)
    sync_folder(path.parent)
    shutil.rmtree(trash, ignore_errors=True)


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of the manifest's own content, whatever its spaces and order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_reading(path / MANIFEST, Path.read_bytes))
        sound = manifest.pop("sha256") == _digest(manifest)
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise BrokenCheckpoint(f"{path} is broken: its {MANIFEST} was altered or cut short")
    return dict(manifest)


def _verify(path: Path, name: str, manifest: dict[str, Any]) -> None:
    expected = manifest["files"][name]
    size = _reading(path / name, lambda file: file.stat().st_size)
    if size != expected["bytes"]:
        raise BrokenCheckpoint(f"{path} is broken: {name} has {size} bytes instead of {expected['bytes']}")
    if _reading(path / name, _sha256) != expected["sha256"]:
        raise BrokenCheckpoint(f"{path} is broken: the checksum of {name} does not agree")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _looks_whole(path: Path) -> bool:
    """Whether all is there, by name and size: cheap, so blind to altered bytes."""
    try:
        files = _manifest(path)["files"]
        return all((path / name).stat().st_size == facts["bytes"] for name, facts in files.items())
    except (OSError, BrokenCheckpoint):
        return False


def _load_group(path: Path, name: str, manifest: dict[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    _verify(path, name, manifest)
    try:
        with safe_open(path / name, framework="pt", device="cpu") as file:
            # A copy of each: safe_open hands out the mapped file, which may be pruned while it is used.
            return {key: file.get_tensor(key).to(device, copy=True) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BrokenCheckpoint(f"{path} is broken: {name} is no safetensors file ({error})") from error
    except OSError as error:
        raise describe_oserror(error, path / name, "reading the checkpoint") from error


def _reading(path: Path, read: Callable[[Path], _T]) -> _T:
    """`read(path)`; a file that is missing makes the checkpoint broken, one that may not be read does not."""
    try:
        return read(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BrokenCheckpoint(f"{path.parent} is broken: {path.name} is missing") from error
    except OSError as error:
        raise describe_oserror(error, path, "reading the checkpoint") from error
