"""How fast evaluation goes here: the sampler in each precision, with and without guidance; decoding; features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fcdm.config.samplers import ADAPTIVE, CALLS_A_STEP
from fcdm.config.schema import PRECISIONS, Config
from fcdm.config.spaces import DINOV2
from fcdm.engine.environment import matmul_precision
from fcdm.engine.sampler import Sampler
from fcdm.features import Extractor
from fcdm.features.space import asked_space, channels_seen
from fcdm.plan.estimate import computed_in, evaluation_precision
from fcdm.plan.evaluation_flops import vae_widths
from fcdm.speed.stopwatch import free_memory, seconds_per_call

SAMPLER_STEPS = 4
"""Of the protocol's sampler, respaced: a step costs the same whatever their number is. Of one that takes the steps that
it needs, Euler's: its calls cost as much."""
GUIDANCE_SCALE = 1.5
VAE_CONFIG = {
    "block_out_channels": vae_widths(),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Of stabilityai/sd-vae-ft-ema, the decoder of the papers."""


@dataclass(frozen=True)
class SamplingSpeed:
    """Sampling in one precision."""

    images: int
    """In one forward pass of the model; twice as many under guidance."""
    precision: str
    guided: bool
    seconds_per_call: float
    """Of the model, with the sampler's own work."""
    flops_per_s: float
    """Of the model's forward passes."""


@dataclass(frozen=True)
class EvaluationSpeed:
    """Decoding latents, or features of images."""

    images: int
    precision: str
    """`fp32` or `tf32`."""
    images_per_s: float
    flops_per_s: float


def measure_sampling(
    model: nn.Module, config: Config, forward_macs: int, device: torch.device, images: int, limit_s: float
) -> list[SamplingSpeed]:
    """Without and with guidance, in float32, TF32 and bf16. Raises torch.OutOfMemoryError."""
    model.eval()
    found = []
    for precision in PRECISIONS:
        if precision == "tf32" and device.type == "cpu":
            continue
        for guided in (False, True):
            found.append(_sampling(model, config, forward_macs, device, images, precision, guided, limit_s / 6))
            free_memory(device)
    return found


def _sampling(
    model: nn.Module,
    config: Config,
    forward_macs: int,
    device: torch.device,
    images: int,
    precision: str,
    guided: bool,
    limit_s: float,
) -> SamplingSpeed:
    asked = dataclasses.replace(
        config.evaluation,
        precision=precision,
        guidance_scale=GUIDANCE_SCALE if guided else 1.0,
        guidance_interval=None,
        guidance_weak=None,
        sampler="euler" if config.evaluation.sampler in ADAPTIVE else config.evaluation.sampler,
        sampling_steps=SAMPLER_STEPS,
        batch_size=images,
    )
    # Compiled only if that is asked for: each precision, with guidance and without, would take a minute of its own.
    config = dataclasses.replace(config, evaluation=asked, compile=bool(config.compile))
    sampler = Sampler(model, config, device, decode=False)
    numbers = torch.arange(images, device=device)
    calls = SAMPLER_STEPS * CALLS_A_STEP.get(asked.sampler, 1)
    with matmul_precision(precision), torch.no_grad():
        per_call = seconds_per_call(lambda: sampler.latents(numbers), device, limit_s) / calls
    flops = 2.0 * forward_macs * images * (1 + guided) / per_call
    return SamplingSpeed(images, precision, guided, per_call, flops)


def measure_decoding(config: Config, macs: int, device: torch.device, images: int, limit_s: float) -> EvaluationSpeed:
    """Latents to 8-bit images by a VAE of the papers' shape, with weights that mean nothing. Raises ImportError."""
    from diffusers import AutoencoderKL

    from fcdm.codecs.vae import Vae
    from fcdm.codecs.vae_files import VaeIdentity

    side = config.resolution // config.data.downsample
    channels = config.data.channels
    made: Any = AutoencoderKL
    network = made(latent_channels=channels, **VAE_CONFIG).to(device).eval().requires_grad_(False)
    identity = VaeIdentity("random", "", "", channels, config.data.downsample, 1.0, 0.0)
    precision = computed_in(evaluation_precision(config, "decoding"), device.type == "cuda")
    vae = Vae(network, identity, device, tf32=precision == "tf32")
    latents = torch.randn(images, channels, side, side, device=device)
    return _evaluation(lambda: vae.decode(latents), images, precision, macs, device, limit_s)


def measure_features(config: Config, macs: int, device: torch.device, images: int, limit_s: float) -> EvaluationSpeed:
    """Features of 8-bit images by what the protocol asks for; networks with weights that mean nothing."""
    channels = channels_seen(config)
    extractor = _extractor(config, channels, device)
    shape = (images, channels, config.resolution, config.resolution)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
    return _evaluation(lambda: extractor.features(pixels), images, "fp32", macs, device, limit_s)


def _extractor(config: Config, channels: int, device: torch.device) -> Extractor:
    """Without any weights of others. Raises UserError for an extractor of the user's own that does not do."""
    from fcdm.features.classifier import random_classifier
    from fcdm.features.dinov2 import dinov2_extractor, random_dinov2
    from fcdm.features.inception import Inception, inception_extractor

    name = config.evaluation.features
    if name == "inception":
        return inception_extractor(Inception().eval().requires_grad_(False), "random", device)
    if name in DINOV2:
        return dinov2_extractor(random_dinov2(), "random", name, device)
    if name == "classifier":
        return random_classifier(channels, config.resolution, device)
    return asked_space(config).open(device)


def _evaluation(
    call: Callable[[], object], images: int, precision: str, macs: int, device: torch.device, limit_s: float
) -> EvaluationSpeed:
    seconds = seconds_per_call(call, device, limit_s)
    free_memory(device)
    return EvaluationSpeed(images, precision, images / seconds, 2.0 * macs * images / seconds)
