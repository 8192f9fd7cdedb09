"""Where a VAE's files are, and what names its weights: without torch or diffusers, so a plan can ask at once."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    parts = wanted.split("/")
    if wanted.startswith((".", "/", "~")) or len(parts) < 2 or not all(parts):
        # Never asked of the network: diffusers would complain about a connection.
        known = ", ".join(ALIASES)
        raise UserError(f"vae={path_or_id}: no such folder, nor a hub id like {ALIASES['ft-ema']} ({known} for short)")
    return _on_hub("/".join(parts[:2]), "/".join(parts[2:]) or None, download)


def _in_folder(folder: Path) -> VaeFiles:
    config = folder / CONFIG
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not config.is_file() or not found:
        inner = f" (there is one in {folder / 'vae'})" if (folder / "vae" / CONFIG).is_file() else ""
        raise UserError(f"{folder} holds no VAE of diffusers: {CONFIG} and {WEIGHTS[0]} are wanted{inner}")
    return VaeFiles(folder.resolve().name, config, found[0])


def _on_hub(repository: str, subfolder: str | None, download: bool) -> VaeFiles:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise UserError(
            f"vae={repository} is a hub id, and huggingface_hub is not installed: pip install 'fcdm[imagenet]'"
        ) from None
    name = f"{repository}/{subfolder}" if subfolder else repository

    def files(local: bool) -> VaeFiles:
        def get(file: str) -> Path:
            return Path(hf_hub_download(repository, file, subfolder=subfolder, local_files_only=local))

        config = get(CONFIG)
        try:
            return VaeFiles(name, config, get(WEIGHTS[0]))
        except EntryNotFoundError:  # of which LocalEntryNotFoundError is one
            return VaeFiles(name, config, get(WEIGHTS[1]))

    try:
        return files(local=True)
    except (LocalEntryNotFoundError, EntryNotFoundError):
        pass
    except HFValidationError:
        raise UserError(f"vae={name} is neither a folder nor a hub id") from None
    save = f"on a machine with network `hf download {repository}`, then say --vae with the folder it prints"
    if not download or not _hub_in_reach():
        raise UserError(f"vae={name} is not on this machine and the hub cannot be reached: {save}")
    try:
        return files(local=False)
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"vae={name} cannot be had from the hub ({type(error).__name__}: {line}): {save}") from None


def _hub_in_reach() -> bool:
    """False where the hub's name does not even resolve: huggingface_hub would retry for 23 s."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in ("https_proxy", "all_proxy")):
        return True  # the proxy resolves names
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _config(files: VaeFiles) -> dict[str, Any]:
    try:
        values = json.loads(files.config.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{files.config} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{files.config} describes no AutoencoderKL, the one kind of VAE that is read")
    return values
