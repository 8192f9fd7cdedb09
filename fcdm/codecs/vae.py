"""The VAE (Kingma and Welling 2013) of latent diffusion, through diffusers' AutoencoderKL, in bounded memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fcdm.codecs.normalisation import Channels
from fcdm.codecs.vae_files import VaeFiles, VaeIdentity, find_vae, vae_identity
from fcdm.errors import UserError
from fcdm.metrics.float32 import tf32
from fcdm.metrics.rounding import to_uint8

DEFAULT_BATCH = {"cuda": 32, "cpu": 4}
"""Images per pass, unless asked otherwise."""


class Vae:
    """A VAE on one device. Float32, without TF32 unless asked: `batch` then moves results by rounding only.

    Where CUDA memory runs out the batch is halved, for good, down to one image.
    """

    def __init__(
        self,
        model: Any,
        identity: VaeIdentity,
        device: torch.device,
        batch: int | None = None,
        tf32: bool = False,
        channels: Channels | None = None,
    ) -> None:
        """channels: models see latents less the mean, over the deviation of each channel; null: by the VAE's factor."""
        self.model, self.identity, self.device, self.tf32, self.channels = model, identity, device, tf32, channels
        self.batch = batch or DEFAULT_BATCH.get(device.type, 4)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, unscaled: two (n, C, h, w) float32 on the device.

        images: (n, 3, H, W), uint8 or float in [-1, 1]; H and W multiples of `identity.downsample`.
        """
        if images.dtype == torch.uint8 and images.device.type == "cpu" and self.device.type == "cuda":
            images = images.pin_memory()

        def posterior(part: Tensor) -> Tensor:
            part = part.to(self.device, non_blocking=True)
            pixels = part.float() / 127.5 - 1 if part.dtype == torch.uint8 else part.float()
            found = self.model.encode(pixels).latent_dist
            return torch.stack((found.mean, found.std), dim=1)

        mean, std = self._in_batches(posterior, images).unbind(1)
        return mean, std

    def decode(self, latents: Tensor) -> Tensor:
        """8-bit images (n, 3, H, W) on the device, from scaled latents (n, C, h, w) as models see them.

        UserError for NaN, as in `to_uint8`.
        """

        def images(part: Tensor) -> Tensor:
            return to_uint8(self.model.decode(self._unscaled(part.to(self.device).float())).sample)

        return self._in_batches(images, latents)

    def _unscaled(self, x: Tensor) -> Tensor:
        if self.channels is not None:
            return self.channels.latents(x)
        return x / self.identity.scaling_factor + self.identity.shift_factor

    def _in_batches(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        done: list[Tensor] = []
        place = 0
        with torch.inference_mode(), tf32(self.tf32), torch.autocast(self.device.type, enabled=False):
            while place < len(inputs):
                part = inputs[place : place + self.batch]
                try:
                    done.append(function(part))
                except torch.OutOfMemoryError:
                    if self.batch == 1:
                        raise UserError(
                            f"{self.device} has no memory for one image of {tuple(inputs.shape[1:])} in the VAE: "
                            "free some, or use device=cpu"
                        ) from None
                else:
                    place += len(part)
                    continue
                # Outside the handler: the error's traceback holds the tensors that filled the memory.
                self.batch = max(1, min(self.batch, len(part)) // 2)
                torch.cuda.empty_cache()
        if not done:
            raise ValueError("no images")
        return torch.cat(done)


def open_vae(
    path_or_id: str,
    device: str | torch.device = "cpu",
    batch: int | None = None,
    tf32: bool = False,
    channels: Channels | None = None,
) -> Vae:
    """The VAE of a local folder, hub id or alias (`ft-ema`, `ft-mse`), offline first; see `find_vae`, and `Vae`.

    Raises UserError, in one line, where it cannot be found or read, or diffusers is not installed.
    """
    files = find_vae(path_or_id)
    identity = vae_identity(path_or_id)
    device = torch.device(device)
    return Vae(_load(files).to(device).eval().requires_grad_(False), identity, device, batch, tf32, channels)


def _load(files: VaeFiles) -> Any:
    try:
        from diffusers import AutoencoderKL
        from diffusers.utils import logging as chatter
    except ImportError as error:
        raise UserError(f"the VAE needs diffusers ({error}): pip install 'fcdm[imagenet]'") from None
    level = chatter.get_verbosity()
    chatter.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # diffusers also renames the attention weights of old checkpoints, which the public SD-VAEs are.
            model, report = AutoencoderKL.from_pretrained(  # type: ignore[no-untyped-call]
                files.config.parent,
                local_files_only=True,
                use_safetensors=files.weights.suffix == ".safetensors",
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever diffusers, safetensors or torch make of a damaged file
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{files.weights} cannot be read as a VAE ({type(error).__name__}: {line})") from None
    finally:
        chatter.set_verbosity(level)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := report.get(kind):
            raise UserError(f"{files.weights} does not fit {files.config.name}: {kind.replace('_', ' ')} {keys[:3]}")
    return model
