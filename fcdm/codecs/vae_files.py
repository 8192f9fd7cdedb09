"""Where a VAE's files are, and what names its weights: without torch or diffusers, so a plan can ask at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.codecs.hub_files import hub_files, hub_id
from fcdm.errors import UserError
from fcdm.hashing import known_sha256
from fcdm.paths import place

ALIASES = {"ft-ema": "stabilityai/sd-vae-ft-ema", "ft-mse": "stabilityai/sd-vae-ft-mse"}
"""Short names of the public SD-VAEs. Same encoder, another decoder: the choice is part of a protocol."""

CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Best first. The second is read weights-only: bytes that want to run code are refused."""

SD_SCALE = 0.18215
"""The scaling factor of Stable Diffusion's VAE, for configurations that do not say theirs."""


@dataclass(frozen=True)
class VaeIdentity:
    """What a VAE is, wherever it lies. The name is for people; equal weights and scale make equal latents."""

    name: str
    """Hub id, or the folder's name."""
    weights_sha256: str
    config_sha256: str
    channels: int
    """Of the latents."""
    downsample: int
    """Image pixels per side of one latent pixel."""
    scaling_factor: float
    """Models see (latent - shift) * scaling_factor."""
    shift_factor: float

    @property
    def id(self) -> str:
        """For protocols: `<hub id>@<first 8 hex digits of the weights' sha256>`, of a folder `vae@...`, since its name
        tells nothing; then `*<scale>` and `+<shift>` where they are not Stable Diffusion's: they change the images."""
        name = self.name if "/" in self.name else "vae"
        scale = "" if self.scaling_factor == SD_SCALE else f"*{self.scaling_factor!r}"
        shift = f"+{self.shift_factor!r}" if self.shift_factor else ""
        return f"{name}@{self.weights_sha256[:8]}{scale}{shift}"


@dataclass(frozen=True)
class VaeFiles:
    """A VAE on this machine's disk."""

    name: str
    config: Path
    weights: Path


def vae_identity(path_or_id: str, download: bool = True) -> VaeIdentity:
    """Who the VAE is, from its files (found as in `find_vae`; the weights are hashed, once per process)."""
    files = find_vae(path_or_id, download)
    values = _config(files)
    blocks, channels = values.get("block_out_channels"), values.get("latent_channels", 4)
    if values.get("_class_name") != "AutoencoderKL" or not isinstance(blocks, list) or not blocks:
        raise UserError(f"{files.config} describes no AutoencoderKL, the one kind of VAE that is read")
    if values.get("latents_mean") is not None or values.get("latents_std") is not None:
        raise UserError(f"{files.config}: a VAE with a scale per channel (latents_mean, latents_std) is not supported")
    scale = values.get("scaling_factor")
    if scale == 0:
        raise UserError(f"{files.config}: scaling_factor is 0, which leaves nothing of any latent")
    return VaeIdentity(
        name=files.name,
        weights_sha256=known_sha256(files.weights),
        config_sha256=known_sha256(files.config),
        channels=int(channels),
        downsample=2 ** (len(blocks) - 1),
        scaling_factor=SD_SCALE if scale is None else float(scale),
        shift_factor=float(values.get("shift_factor") or 0.0),
    )


def find_vae(path_or_id: str, download: bool = True) -> VaeFiles:
    """The files of a local folder, of a hub id (`owner/name` or `owner/name/subfolder`), or of one of `ALIASES`.

    A hub id is looked for in the local cache first, so that a machine without network works once it has been
    filled. Raises UserError, in one line, for a folder that is not there or is no VAE, and for an id that
    cannot be had.
    """
    wanted = ALIASES.get(path_or_id, path_or_id)
    local = place(wanted)
    if local.is_dir():
        return _in_folder(local)
    named = hub_id(wanted)
    if named is None:
        known = ", ".join(ALIASES)
        raise UserError(f"vae={path_or_id}: no such folder, nor a hub id like {ALIASES['ft-ema']} ({known} for short)")
    repository, subfolder = named
    config, weights = hub_files(
        f"vae={wanted}",
        repository,
        [(CONFIG,), WEIGHTS],
        extra="imagenet",
        then="say --vae with the folder it prints",
        subfolder=subfolder,
        download=download,
    )
    return VaeFiles(wanted, config, weights)


def _in_folder(folder: Path) -> VaeFiles:
    config = folder / CONFIG
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not config.is_file() or not found:
        inner = f" (there is one in {folder / 'vae'})" if (folder / "vae" / CONFIG).is_file() else ""
        raise UserError(f"{folder} holds no VAE of diffusers: {CONFIG} and {WEIGHTS[0]} are wanted{inner}")
    return VaeFiles(folder.resolve().name, config, found[0])


def _config(files: VaeFiles) -> dict[str, Any]:
    try:
        values = json.loads(files.config.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{files.config} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{files.config} describes no AutoencoderKL, the one kind of VAE that is read")
    return values
