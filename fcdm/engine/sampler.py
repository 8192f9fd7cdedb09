"""Weights -> images: start noise, label and step noise of the i-th sample are functions of (seed, i) alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fcdm.codecs.normalisation import channels_of
from fcdm.config.schema import Config
from fcdm.diffusion import make_objective
from fcdm.diffusion.guidance import Guided
from fcdm.diffusion.objective import Sampling
from fcdm.diffusion.user_objective import unknown_sampler
from fcdm.engine.environment import autocast_of_many_calls, compiled, explaining
from fcdm.engine.load_model import weaker_model
from fcdm.engine.model_conditions import of_samples
from fcdm.errors import UserError
from fcdm.metrics.rounding import to_uint8
from fcdm.randomness import Draws, Normal, Purpose, integers, normal
from fcdm.runs.protocol import decoder_of

if TYPE_CHECKING:
    from fcdm.codecs.vae import Vae

NOISE_AT_ONCE = 2**21
"""Numbers: 8 MB, and 50 MB while they are made; 8 steps of 64 samples of 256 pixels."""


class Sampler:
    """Images by their numbers: start noise, label and step noise of sample i are functions of (seed, i)."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        device: torch.device,
        label: int | None = None,
        decode: bool = True,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        """label: all samples are of this class, whatever `evaluation.labels` says. decode: latents will be decoded.
        interrupt: called before each network call; what it raises ends the sampling of a batch."""
        self.model, self.config, self.device, self.label = compiled(model, config, device), config, device, label
        side = config.resolution // config.data.downsample
        self.shape = (config.data.channels, side, side)
        self.interrupt = interrupt
        self.objective = make_objective(config.diffusion)
        self.vae = _decoder(config, device) if decode and config.data.downsample > 1 else None
        weak = weaker_model(config, device)
        self.weak = compiled(weak, config, device) if weak else None
        self.given = of_samples(config, device, label)
        asked = config.evaluation
        if asked.sampler not in self.objective.samplers:
            raise UserError(unknown_sampler(asked.sampler, self.objective, config.diffusion.objective))
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
        guided = Guided(
            self.model,
            self.labels(numbers),
            self.config.data.classes,
            protocol.guidance_scale,
            protocol.guidance_channels,
            interval=(interval[0], interval[1]) if interval else None,
            time=self.objective.diffusion_time,
            weak=self.weak,
            conditions=self.given.conditions(numbers) if self.given else {},
        )
        start = normal(protocol.seed, Purpose.SAMPLE_START, 0, numbers, self.shape)
        noise = _StepNoise(protocol.seed, numbers, self.shape)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if self.interrupt is not None:
                self.interrupt()
            return guided(x, t)

        with explaining(), autocast_of_many_calls(protocol.precision, self.device, self.model, self.weak):
            return self.objective.sample(denoise, start, noise, self.sampling).x.float()

    def labels(self, numbers: Tensor) -> Tensor:
        """Labels (n,) int64 of the samples."""
        classes = self.config.data.classes
        if self.label is not None:
            return torch.full_like(numbers, self.label)
        if self.given is not None:
            return self.given.labels(numbers)
        if self.config.evaluation.labels == "balanced":
            return numbers % classes
        return integers(self.config.evaluation.seed, Purpose.SAMPLE_LABEL, 0, numbers, classes)


class _StepNoise:
    """noise(k) of a batch's samples `numbers`, a function of (seed, number, k); drawn for several k in one pass.

    Samplers count k down, so k and those below it are drawn together: on a GPU a pass costs its launches.
    """

    def __init__(self, seed: int, numbers: Tensor, shape: tuple[int, ...]) -> None:
        self.draws = Draws(seed, numbers, Normal(Purpose.SAMPLE_STEP, shape))
        self.together = max(1, NOISE_AT_ONCE // max(1, len(numbers) * math.prod(shape)))
        self.first = 0
        self.drawn = numbers[:0]

    def __call__(self, k: int) -> Tensor:
        if not self.first <= k < self.first + len(self.drawn):
            self.first = max(0, k - self.together + 1)
            self.drawn = self.draws.steps(self.first, k - self.first + 1)[0]
        return self.drawn[k - self.first]


def _decoder(config: Config, device: torch.device) -> Vae:
    from fcdm.codecs.vae import open_vae  # diffusers takes seconds to import

    channels = channels_of(config.data.channel_mean, config.data.channel_deviation)
    return open_vae(decoder_of(config), device, tf32=config.evaluation.precision != "fp32", channels=channels)
