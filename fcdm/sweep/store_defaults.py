"""`data.path=STORE` suffices: what a store is, it says itself.

What the user says comes first, then the store, then the presets. A preset that means the bundled digits (N, M) is
trained on a store of latents by the recipe `small`, on one of pixels by `pixels`; the others on pixels by
`pixels_paper`. Data of one's own has an EMA that any budget can be evaluated by.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fcdm.config.said import Said
from fcdm.data.manifest import MANIFEST, PIXELS, Manifest, prepare_command, read_manifest, store_name, store_vae
from fcdm.errors import UserError
from fcdm.paths import place
from fcdm.runs.processes import is_first_process
from fcdm.sweep.expand import override_text


def store_overrides(path: str | None, said: Said, chosen: Mapping[str, Any]) -> list[str]:
    """What to add to a choice whose data are at `path`, as overrides; none where there is nothing to add.

    chosen: config group -> the option that the user chose. Raises UserError for what is no store, or not meant.
    """
    if path in (None, "True", "False"):  # YAML's `off` is told where all texts are looked at
        return []
    presets, is_said = said.presets or {}, "data.path" in said.keys
    folder = place(path)
    if is_said and chosen.get("data") == "digits":
        raise UserError(
            f"data=digits are the bundled digits, and data.path={path} is other data: leave data=digits away"
            f"{_instead(folder)}"
        )
    manifest = _manifest(folder, _stamp(folder)) if folder.exists() else None
    pixels = manifest is not None and manifest.kind == PIXELS
    if manifest is not None:
        _refuse_other_kind(path, manifest, chosen)
    added = []
    small = presets.get("data.path") is None and "data" not in chosen  # the preset means the digits
    if "data" not in chosen and (small or pixels):
        added.append("data=pixels" if pixels else "data=imagenet")
    if (small or pixels) and "recipe" not in chosen:
        added.append(f"recipe={('pixels' if small else 'pixels_paper') if pixels else 'small'}")
    if manifest is not None:
        if not manifest.is_imagenet and "ema" not in chosen:
            added.append("ema=ramped")
        values: dict[str, Any] = {
            "data.path": path,  # where it is made of the resolution
            "data.name": manifest.name,
            "data.channels": manifest.channels,
            "data.classes": len(manifest.classes),
            "data.downsample": manifest.downsample,
            "resolution": manifest.resolution,
        }
        if len(manifest.classes) == 1:
            values["label_drop.probability"] = 0.0  # there is no label to drop
        if pixels and small and manifest.resolution > 32 and "resources" not in chosen:
            values["resources.mem_gb"] = 4  # activations of a batch of N at 64 pixels: 2 GB
        if not pixels:
            values |= _of_stored(manifest)
        if not pixels and "data.vae" not in said.keys:
            values["data.vae"] = _vae(folder, _stamp(folder), "evaluation.decoder" in said.keys)
    else:
        values = {"data.name": store_name(folder)} if is_said else {}
    return added + [override_text(key, value) for key, value in values.items() if key not in said.keys]


OF_PIXELS = {"data": ("pixels",), "recipe": ("pixels", "pixels_paper")}
"""Options of groups that are for stores of pixels."""
OF_LATENTS = {"data": ("imagenet",), "recipe": ("small",)}


def _refuse_other_kind(path: str | None, manifest: Manifest, chosen: Mapping[str, Any]) -> None:
    """Raises UserError where the user chose what is for the other kind of store."""
    for group, options in (OF_LATENTS if manifest.kind == PIXELS else OF_PIXELS).items():
        if chosen.get(group) in options:
            other = "a VAE's latents" if manifest.kind == PIXELS else "pixels"
            raise UserError(
                f"{group}={chosen[group]} is for stores of {other}, and data.path={path} is one of {manifest.kind}: "
                f"leave {group}={chosen[group]} away, or say data.path=<another store>"
            )


def _of_stored(manifest: Manifest) -> dict[str, str]:
    """How latents are drawn of which one draw, or no mirror image, has been imported."""
    found = {} if manifest.stored.deviation else {"data.latents": "frozen"}
    return found if manifest.stored.flips == 2 else {**found, "data.flip": "none"}


def _instead(folder: Path) -> str:
    if (folder / MANIFEST).exists():
        return ""
    return f". It is no store: if these are images, {prepare_command(folder)}"


def _stamp(folder: Path) -> int:
    """Changes when the store does."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


@cache
def _manifest(folder: Path, stamp: int) -> Manifest:
    return read_manifest(folder)


@cache
def _vae(folder: Path, stamp: int, decoder_is_said: bool) -> str | None:
    manifest = _manifest(folder, stamp)
    found = store_vae(manifest)
    if found is None and not decoder_is_said and is_first_process():
        place = f", which is not at {manifest.vae_asked} any more" if manifest.vae_asked else ""
        print(
            f"note: {folder} was made with {manifest.vae or 'a VAE'} (weights {manifest.vae_sha256[:8]}){place}: "
            "evaluation.decoder= says where it is, for samples to be decoded",
            file=sys.stderr,
        )
    return found
