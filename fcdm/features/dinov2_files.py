"""Where DINOv2's files are, and what names its features: torch-free, so that a plan can ask at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fcdm.codecs.hub_files import believed_sha256, hub_files, hub_id, promised_sha256
from fcdm.config.spaces import DINOV2
from fcdm.errors import UserError
from fcdm.hashing import known_sha256
from fcdm.paths import place

SIDE = 224
CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESIZES = dict(zip(DINOV2, (f"{SIDE}-bicubic", f"{SIDE}-pil"), strict=True))
"""How images come to 224 pixels, by the extractor's name: in floats without rounding (EDM2's rule), or by PIL, rounded
to bytes (dgm-eval's). Both are published, and their distances differ."""
SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""By the width of the class token."""


@dataclass(frozen=True)
class Dinov2Files:
    """A DINOv2 on this machine's disk, in one folder."""

    folder: Path
    values: dict[str, Any]
    """Of its config.json."""

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def dim(self) -> int:
        """Of the class token."""
        return int(self.values["hidden_size"])


def find_dinov2(path_or_id: str | Path) -> Dinov2Files:
    """The files in a local folder, or of a hub id, which the local cache is asked for before the network.

    Weights are read from safetensors alone: nothing is unpickled. Raises UserError where they are not there or are no
    DINOv2 that takes images of 224 pixels.
    """
    folder = place(str(path_or_id))
    if not folder.is_dir():
        named = hub_id(str(path_or_id))
        if named is None or named[1]:
            raise UserError(
                f"evaluation.dinov2={path_or_id}: no such folder, nor a hub id like facebook/dinov2-large: say one of "
                "them"
            )
        config, _ = hub_files(
            f"evaluation.dinov2={path_or_id}",
            named[0],
            [(CONFIG,), (WEIGHTS,)],
            extra="dinov2",
            then="say evaluation.dinov2= with the folder it prints",
        )
        folder = config.parent
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"evaluation.dinov2={path_or_id}: no {missing[0]} in it: {CONFIG} and {WEIGHTS} are what is read"
        )
    return Dinov2Files(folder, _config(folder / CONFIG))


def dinov2_id(name: str, path_or_id: str | Path) -> str:
    """`dinov2-large-224-bicubic@<first 8 hex digits of the weights' sha256>`.

    Raises UserError as `find_dinov2`, and where `transformers`, which computes them, is not installed.
    """
    if find_spec("transformers") is None:
        raise without_library("it is not installed")
    files = find_dinov2(path_or_id)
    return _id(name, files, believed_sha256(files.weights))


def checked_id(name: str, files: Dinov2Files) -> str:
    """The same, once the weights have been read. Raises UserError where they are not what the hub's cache promises."""
    found, promised = known_sha256(files.weights), promised_sha256(files.weights)
    if promised not in (None, found):
        raise UserError(
            f"{files.weights}: its sha256 starts with {found[:8]}, and the hub promised {str(promised)[:8]}: the file "
            "is damaged; remove the model from the hub's cache and fetch it again"
        )
    return _id(name, files, found)


def without_library(why: str) -> UserError:
    """What to say where `transformers` cannot be had."""
    return UserError(f"evaluation.features=dinov2 needs transformers ({why}): pip install 'fcdm[dinov2]'")


def _id(name: str, files: Dinov2Files, sha256: str) -> str:
    size = SIZES.get(files.dim, str(files.dim))
    return f"dinov2-{size}-{RESIZES[name]}@{sha256[:8]}"


def _config(path: Path) -> dict[str, Any]:
    values: Any = None
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "dinov2":
        raise UserError(f"{path} describes {kind or 'no model'}, and no dinov2: say evaluation.dinov2=<a DINOv2>")
    patch = values.get("patch_size", 14)
    if not isinstance(patch, int) or patch < 1 or SIDE % patch or not isinstance(values.get("hidden_size"), int):
        raise UserError(f"{path}: patches of {patch} pixels do not tile {SIDE}: say evaluation.dinov2=<a DINOv2 of 14>")
    return dict(values)
