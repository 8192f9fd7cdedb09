"""Sampling: ancestral (DDPM, arXiv 2006.11239) and DDIM with eta 0 (arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fcdm.diffusion.guidance import Denoise
from fcdm.diffusion.process import Process, at, split_output
from fcdm.errors import UserError

SAMPLERS = ("ddpm", "ddim")


class Prediction(NamedTuple):
    """What a model says of the step from x_t; float32, (B, C, H, W)."""

    x0: Tensor
    eps: Tensor
    mean: Tensor
    log_variance: Tensor
    """May be (B, 1, 1, 1), where sigma is not learned."""


def predict(process: Process, output: Tensor, x_t: Tensor, t: Tensor, clip_denoised: bool = False) -> Prediction:
    """Read a model's output (B, C or 2C, H, W) for x_t (B, C, H, W) at steps t (B,) of `process`.

    With `clip_denoised`, the predicted x_0 is clipped to [-1, 1] and eps and the mean are those of the
    clipped one.
    """
    eps, v = split_output(output, x_t.shape[1])
    x0 = process.predict_x0(x_t, t, eps)
    if clip_denoised:
        x0 = x0.clamp(-1.0, 1.0)
        eps = process.predict_eps(x_t, t, x0)
    return Prediction(x0, eps, process.posterior_mean(x0, x_t, t), process.log_variance(x_t, t, v))


def ddpm_step(prediction: Prediction, noise: Tensor | None) -> Tensor:
    """x_{t-1} drawn from the model's Gaussian (DDPM algorithm 2); its mean, where noise is None."""
    if noise is None:
        return prediction.mean
    return prediction.mean + (0.5 * prediction.log_variance).exp() * noise


def ddim_step(process: Process, prediction: Prediction, t: Tensor) -> Tensor:
    """x_{t-1} without noise: DDIM eq. 12 with sigma = 0."""
    alpha_bar_prev = at(process.tables(prediction.x0.device).alpha_bar_prev, t, prediction.x0)
    return alpha_bar_prev.sqrt() * prediction.x0 + (1.0 - alpha_bar_prev).sqrt() * prediction.eps


@torch.no_grad()
def sample(
    denoise: Denoise,
    process: Process,
    start: Tensor,
    noise: Callable[[int], Tensor],
    *,
    sampler: str = "ddpm",
    clip_denoised: bool = False,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise `start` through all steps of `process`, last to first.

    Args:
        denoise: the model, `guided` or not; sees the training process' timesteps. Whether sigma is learned
        shows in
            its output's channels: C (the posterior's variance is used) or 2C.
        process: `Process.create(...).respaced(sampling steps)`.
        start: (B, C, H, W) float32 standard normal.
        noise: noise(t) -> (B, C, H, W) float32 standard normal for the step from x_t, t in (0, S). Called
        only where
            noise is added: never by `ddim`, and not in the last step (t = 0).
        sampler: `ddpm` or `ddim`.
        clip_denoised: clip the predicted x_0 to [-1, 1] at each step (for pixels, not for latents).
        on_step: called as on_step(t, x_{t-1}) after each step; an exception in it ends the sampling.

    Returns:
        (B, C, H, W) float32.

    Raises:
        UserError: unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"evaluation.sampler={sampler} is unknown: write {' or '.join(SAMPLERS)}")
    x = start
    steps = torch.arange(len(process), device=x.device)
    for index in reversed(range(len(process))):
        t = steps[index].expand(len(x))
        output = denoise(x, process.tables(x.device).timesteps[t])
        with torch.autocast(x.device.type, enabled=False):
            prediction = predict(process, output, x, t, clip_denoised)
            if sampler == "ddim":
                x = ddim_step(process, prediction, t)
            else:
                x = ddpm_step(prediction, noise(index) if index > 0 else None)
        if on_step is not None:
            on_step(index, x)
    return x
