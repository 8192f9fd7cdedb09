"""Where the weights of the FID Inception are: at a path, in the environment, or in the cache folder. Torch-free."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fcdm.errors import UserError
from fcdm.hashing import cache_folder, known_sha256
from fcdm.paths import place

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
VARIABLE = "FCDM_INCEPTION"


def find_weights(path: str | Path | None = None) -> Path:
    """The weight file: `path`, else $FCDM_INCEPTION, else the cache folder's; UserError where there is none.

    Looks only; `check_weights` reads it.
    """
    named = _named(path)
    if named is not None:
        return named
    found = cache_folder() / NAME
    if not found.is_file():
        raise UserError(
            f"no Inception weights: FID needs {NAME} (release v0.2.0 of github.com/toshas/torch-fidelity); "
            f"`python -m fcdm.features.download` downloads it, or put it at {found}, or set {VARIABLE} to its path"
        )
    return found


def inception_id(path: str | Path | None = None) -> str:
    """`inception@<first 8 hex digits of the weight file's sha256>`; the public file's where none is named.

    A name that ends in its checksum, as the public one does, is believed here and checked on opening: so a
    machine without the file can plan for one that has it.
    """
    named = _named(path)
    if named is None:
        return f"inception@{promised_checksum(NAME)}"
    return f"inception@{promised_checksum(named.name) or known_sha256(named)[:8]}"


def check_weights(path: Path) -> str:
    """The file's sha256, all 64 digits; UserError where its name promises another.

    A name such as `name-6726825d.pth` is a promise; other names promise nothing.
    """
    found, promised = known_sha256(path), promised_checksum(path.name)
    if promised and not found.startswith(promised):
        there = path.parent == cache_folder()
        remedy = "remove it and download it again (python -m fcdm.features.download)"
        if not there:  # a download goes to the cache folder, and the variable comes before that
            remedy = f"copy it again, or unset {VARIABLE} and download it (python -m fcdm.features.download)"
        raise UserError(
            f"{path}: its sha256 starts with {found[:8]}, not with {promised} as its name says: the file is damaged; "
            f"{remedy}"
        )
    return found


def _named(path: str | Path | None) -> Path | None:
    """What was asked for by path or environment; UserError where it is not there."""
    source = "" if path else f" ({VARIABLE})"
    chosen = path or os.environ.get(VARIABLE)
    if not chosen:
        return None
    named = place(str(chosen))
    if not named.is_file():
        unset = "" if path else f", or unset {VARIABLE} and `python -m fcdm.features.download` them"
        raise UserError(
            f"{named}{source}: no such file: it should be the Inception weights {NAME}: put them there{unset}"
        )
    return named


def promised_checksum(name: str) -> str:
    """The first 8 hex digits of the sha256 that a file name ends in, as torch.hub's do; empty where it does not."""
    match = re.search(r"-([0-9a-f]{8})\.pth$", name)
    return match[1] if match else ""
