"""Reads the weights that `fcdm.runs.find_weights` finds, for a model: in its names, all of them and no others.

Besides a run's checkpoints these are files: the public DiT's and FCDM's dictionaries {"model", "ema", "opt", "args"},
bare state dicts, Lightning's `state_dict`, safetensors; in the public codes' names or in ours, below whatever module
wrapped them (DistributedDataParallel, torch.compile, AveragedModel, a LightningModule). Nothing is unpickled but
tensors and the `argparse.Namespace` of `args`.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fcdm.atomic import describe_oserror, file_errors
from fcdm.engine.checkpoint import load_checkpoint
from fcdm.errors import UserError
from fcdm.models import FCDM, DiT
from fcdm.models.official_weights import from_official, listed, official_names, size
from fcdm.runs.find_weights import Weights

LIGHTNING = "state_dict"
"""Where a `.ckpt` of Lightning has its weights, and many other files of torch."""
COUNTER = "n_averaged"
"""How many weights torch's AveragedModel has averaged; no weight."""


def read_weights(weights: Weights, model: nn.Module, group: str = "ema", any_side: bool = False) -> dict[str, Tensor]:
    """`model`'s state dict from `weights`: in its types, on the CPU; `model` itself is left as it is.

    group: "ema" or "model", or another that the checkpoint has; a file with a bare state dict has only one and gives
    that. any_side: also weights of a DiT for images of another size, whose fixed position embedding is another.
    Raises UserError, in one line: another model (naming what is missing, unexpected or of another shape), a file that
    is cut short, and one that holds more than tensors; BrokenCheckpoint.
    """
    tensors: Mapping[str, Tensor]
    if weights.run is not None:
        tensors = load_checkpoint(weights.path, [group])[0][group]
    else:
        tensors = _group_of(weights.path, group)
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    # A copy of each: a mapped file may be replaced while its tensors are used.
    return {name: tensor.to(types[name], copy=True) for name, tensor in _named(weights, model, tensors, any_side)}


def _named(
    weights: Weights, model: nn.Module, tensors: Mapping[str, Tensor], any_side: bool
) -> list[tuple[str, Tensor]]:
    """The tensors by our names. Raises UserError unless they are `model`'s."""
    own = model.state_dict()
    public = official_names(model.config) if isinstance(model, FCDM | DiT) and weights.run is None else {}
    if weights.run is None:
        tensors = _unwrapped(tensors, own.keys() | public.keys())
        if prefixes := _prefixes(tensors, own) + _prefixes(tensors, public):
            raise _keep_one(weights.path, prefixes)
    if isinstance(model, FCDM | DiT) and len(public.keys() & tensors.keys()) > len(own.keys() & tensors.keys()):
        try:
            return list(from_official(model, tensors, any_side).items())
        except UserError as error:
            raise UserError(f"{weights.path}: {error}") from None
    problems = []
    if missing := [name for name in own if name not in tensors]:
        problems.append(f"missing {listed(missing)}")
    if unexpected := [name for name in tensors if name not in own]:
        problems.append(f"unexpected {listed(unexpected)}")
    reshaped = [
        f"{name} is {size(tensors[name].shape)}, not {size(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if reshaped:
        problems.append(f"shapes differ: {listed(reshaped)}")
    if problems:
        asked = getattr(getattr(model, "config", None), "name", type(model).__name__)
        raise UserError(f"{weights.path}: not the weights of model {asked}: {'; '.join(problems)}")
    return [(name, tensors[name]) for name in own]


def _unwrapped(tensors: Mapping[str, Tensor], known: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors without what all their names begin with, as far as that makes them known; else as they are."""
    inner = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != COUNTER or name in known}
    while not inner.keys() & known:
        first = {name.partition(".")[0] for name in inner if "." in name}
        if len(first) != 1 or not all("." in name for name in inner):
            return tensors
        inner = {name.partition(".")[2]: tensor for name, tensor in inner.items()}
    return inner


def _prefixes(tensors: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """What stands before all of a model's names, where other tensors stand beside them."""
    first = next(iter(names), None)
    found = [name.removesuffix(first) for name in tensors if first and name.endswith(f".{first}")]
    return [prefix for prefix in found if all(f"{prefix}{name}" in tensors for name in names)]


def _keep_one(path: Path, prefixes: list[str]) -> UserError:
    """Says what to write to have one set of weights in a file."""
    one = prefixes[0]
    return UserError(
        f"{path} holds more than one model's weights: its names begin with {' or '.join(prefixes)}, among others. Keep "
        f"one: w = torch.load({str(path)!r}, weights_only=True); w = w.get({LIGHTNING!r}, w); "
        f"torch.save({{n.removeprefix({one!r}): t for n, t in w.items() if n.startswith({one!r})}}, 'weights.pt')"
    )


def _group_of(path: Path, group: str) -> Mapping[str, Tensor]:
    """The state dict of a file: the `group` of a dictionary of groups, or all of it."""
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if group in content and isinstance(content[group], Mapping):
        content = content[group]
    elif isinstance(content.get(LIGHTNING), Mapping):  # one set of weights, whichever is asked for
        content = content[LIGHTNING]
    elif groups := [key for key, value in content.items() if isinstance(value, Mapping)]:
        hint = {"model": ": say raw (init_from_weights=raw, weights=raw)", "ema": ": say ema"}
        there = next((hint[name] for name in ("ema", "model") if name in groups), "")
        raise UserError(f"{path} has no weights {group!r}, only {', '.join(groups)}{there}")
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        what = f"{listed(others)} is no tensor" if others else "it is empty"
        raise UserError(f"{path} holds no state dict: {what}")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or cut short ({error}): copy it again") from None
    except OSError as error:
        raise describe_oserror(error, path, "reading the weights") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    with file_errors(path, "reading the weights"):
        path.open("rb").close()
        mapped = zipfile.is_zipfile(path)
    try:
        # Mapped where the format allows it: of a training checkpoint, two thirds are moments that nobody reads here.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        tensors = "model.state_dict()"
        if path.suffix == ".ckpt":
            tensors = f"torch.load({str(path)!r}, weights_only=False)[{LIGHTNING!r}]"
        raise UserError(
            f"{path} holds {what[1] if what else 'something'} that is no tensor and could run code: refused. Keep its "
            f"tensors only, where it was made: torch.save({tensors}, 'weights.pt')"
        ) from None
    except Exception as error:  # whatever torch's readers make of bytes that are not theirs
        raise UserError(
            f"{path} is no file of torch.save, or cut short ({type(error).__name__}): copy it again"
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, no state dict")
    return content
