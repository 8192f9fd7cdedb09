"""Weights -> images: start noise, label and step noise of the i-th sample are functions of (seed, i) alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.diffusion import make_objective
from fcdm.diffusion.guidance import Guided
from fcdm.diffusion.objective import Sampling
from fcdm.engine.environment import autocast, compiled, explaining
from fcdm.engine.load_model import weaker_model
from fcdm.metrics.rounding import to_uint8
from fcdm.randomness import Purpose, integers, normal
from fcdm.runs.protocol import decoder_of

if TYPE_CHECKING:
    from fcdm.codecs.vae import Vae


class Sampler:
    """Images by their numbers: start noise, label and step noise of sample i are functions of (seed, i)."""

    def __init__(
        self, model: nn.Module, config: Config, device: torch.device, label: int | None = None, decode: bool = True
    ) -> None:
        """label: all samples are of this class, whatever `evaluation.labels` says. decode: latents will be decoded."""
        self.model, self.config, self.device, self.label = compiled(model, config, device), config, device, label
        side = config.resolution // config.data.downsample
        self.shape = (config.data.channels, side, side)
        self.objective = make_objective(config.diffusion)
        self.vae = _decoder(config, device) if decode and config.data.downsample > 1 else None
        weak = weaker_model(config, device)
        self.weak = compiled(weak, config, device) if weak else None
        asked = config.evaluation
        self.sampling = Sampling(
            asked.sampler, asked.sampling_steps, asked.clip_denoised, atol=asked.atol, rtol=asked.rtol
        )

    def images(self, numbers: Tensor) -> Tensor:
        """Samples `numbers` (n,) int64 as (n, C, side, side) uint8."""
        x = self.latents(numbers)
        return self.vae.decode(x) if self.vae else to_uint8(x)

    def latents(self, numbers: Tensor) -> Tensor:
        """Samples `numbers` (n,) int64 as the model makes them: latents or pixels (n, channels, side, side) float32."""
        protocol = self.config.evaluation
        interval = protocol.guidance_interval
        denoise = Guided(
            self.model,
            self.labels(numbers),
            self.config.data.classes,
            protocol.guidance_scale,
            protocol.guidance_channels,
            interval=(interval[0], interval[1]) if interval else None,
            time=self.objective.diffusion_time,
            weak=self.weak,
        )
        start = normal(protocol.seed, Purpose.SAMPLE_START, 0, numbers, self.shape)

        def noise(k: int) -> Tensor:
            return normal(protocol.seed, Purpose.SAMPLE_STEP, k, numbers, self.shape)

        with explaining(), autocast(protocol.precision, self.device):
            return self.objective.sample(denoise, start, noise, self.sampling).x.float()

    def labels(self, numbers: Tensor) -> Tensor:
        """Labels (n,) int64 of the samples."""
        classes = self.config.data.classes
        if self.label is not None:
            return torch.full_like(numbers, self.label)
        if self.config.evaluation.labels == "balanced":
            return numbers % classes
        return integers(self.config.evaluation.seed, Purpose.SAMPLE_LABEL, 0, numbers, classes)


def _decoder(config: Config, device: torch.device) -> Vae:
    from fcdm.codecs.vae import open_vae  # diffusers takes seconds to import

    return open_vae(decoder_of(config), device)
