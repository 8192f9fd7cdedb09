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
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcdm.atomic import TEMPORARY, describe_oserror, file_errors, plain, sync_folder, temporary_name, write_new
from fcdm.engine.host_copy import Groups
from fcdm.errors import UserError
from fcdm.runs.checkpoints import (
    MANIFEST,
    BrokenCheckpoint,
    checkpoints,
    digest,
    group_names,
    is_broken,
    looks_whole,
    read_manifest,
    verify,
    verify_all,
)
from fcdm.runs.run_paths import checkpoint_name

_TRASH = ".trash-"


def _nothing() -> None: ...


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    extra: Mapping[str, Any],
    go_on: Callable[[], None] = _nothing,
) -> Path:
    """Writes `tensors` and `extra` (JSON) as the checkpoint of `step` into `folder`; returns its path.

    Only the run's holder may call it. A whole checkpoint of that step is left as it is; a broken one of that
    or a later step, which a resume had to skip, is replaced or removed. Takes the memory of one tensor more,
    wherever the tensors are. `go_on` is called often: what it raises ends the writing. Raises UserError when the
    file system refuses. Either way older checkpoints then stand and nothing else is left behind.
    """
    final = folder / checkpoint_name(step)
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
                size, checksum = write_tensors(temporary / f"{group}.safetensors", members, go_on)
                files[f"{group}.safetensors"] = {"bytes": size, "sha256": checksum}
            content = {"step": step, "files": files, "extra": plain(dict(extra))}
            manifest = {**content, "sha256": digest(content)}
            write_new(temporary / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
            sync_folder(temporary)
            go_on()
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
    manifest = read_manifest(path)
    names = group_names(path)
    wanted = names if groups is None else list(groups)
    for group in wanted:
        if group not in names:
            raise UserError(f"{path} has no {group}, only {', '.join(names)}")
    tensors: Groups = {}
    for group in wanted:
        verify(path, f"{group}.safetensors", manifest)
        # A copy of each: the mapped file may be pruned while they are used.
        tensors[group] = {name: tensor.to(device, copy=True) for name, tensor in mapped_group(path, group).items()}
    return tensors, manifest


def latest_checkpoint(folder: Path, warn: Callable[[str], None], until: int | None = None) -> Path | None:
    """The newest whole checkpoint in `folder`, `until` a step, its checksums verified; None if there is none.

    Each broken one on the way is told to `warn` and skipped. Raises UserError where one may not be read.
    """
    for step, path in reversed(checkpoints(folder)):
        if until is not None and step > until:
            continue
        try:
            verify_all(path)
        except BrokenCheckpoint as error:
            warn(f"{error}; using the checkpoint before it, if there is one")
        else:
            return path
    return None


def mapped_group(path: Path, group: str) -> dict[str, Tensor]:
    """The tensors of a group as they are in the mapped file, which is read as they are: copy each, and let go of them.

    Nothing is verified. Raises BrokenCheckpoint for what is no such file, UserError.
    """
    file = path / f"{group}.safetensors"
    try:
        with safe_open(file, framework="pt", device="cpu") as mapped:
            return {key: mapped.get_tensor(key) for key in mapped.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise BrokenCheckpoint(f"{path} is broken: {file.name} is no safetensors file ({error})") from error
    except FileNotFoundError as error:
        raise BrokenCheckpoint(f"{path} is broken: {file.name} is missing") from error
    except OSError as error:
        raise describe_oserror(error, file, "reading the checkpoint") from error


def prune(folder: Path, keep: int, keep_steps: set[int]) -> None:
    """Removes all but the last `keep` checkpoints and those of `keep_steps`, and what dead writers left.

    Only the run's holder may call it. A checkpoint whose files are missing or cut short does not count as one
    of the last. Raises UserError when the file system refuses.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}: a resume needs the last checkpoint")
    present = checkpoints(folder)
    whole = [path for _, path in present if looks_whole(path)]
    kept = set(whole[-keep:])
    with file_errors(folder, "removing old checkpoints"):
        for step, path in present:
            if path not in kept and step not in keep_steps:
                _remove(path)
        remove_leftovers(folder)


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


_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 24
"""Bytes written and hashed at a time: what was just hashed is still in the cache when it is written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], go_on: Callable[[], None] = _nothing) -> tuple[int, str]:
    """Creates the safetensors file `path`, on the disk when it returns: (its bytes, its sha256).

    Values are kept bit for bit; strides (channels_last) and shared storage are not: each name gets its own
    row-major bytes. Takes the memory of one tensor more. Raises OSError, and ValueError for a dtype that the
    format lacks.
    """
    # Wide elements first keeps each tensor aligned to its element size; the library does the same.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name}: {tensor.dtype} cannot be stored in a checkpoint")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with open(descriptor, "wb") as file:
        for part in (None, *order):
            raw = memoryview(head) if part is None else _bytes_of(tensors[part])
            for begin in range(0, len(raw), _CHUNK):
                go_on()
                chunk = raw[begin : begin + _CHUNK]
                digest.update(chunk)
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return len(head) + end, digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's values, row-major, in this machine's (little-endian) order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
