"""Gaussian diffusion as an objective: DDPM (arXiv 2006.11239) with a learned variance where the model has one
(arXiv 2102.09672), sampled by ancestral steps or by DDIM with eta 0 (arXiv 2010.02502)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fcdm.config.samplers import SAMPLERS
from fcdm.diffusion.ddpm_loss import training_loss
from fcdm.diffusion.objective import Denoise, Loss, Noise, OnStep, Sampling, Solution
from fcdm.diffusion.process import Process, at, split_output
from fcdm.errors import UserError
from fcdm.randomness import Integers, Purpose


@dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """An `Objective`: times are int64 steps of the training process, the model predicts the noise."""

    process: Process
    """Of training."""
    # By number of steps: each keeps its tables on the device.
    _respaced: dict[int, Process] = field(default_factory=dict, init=False, repr=False)

    @property
    def samplers(self) -> tuple[str, ...]:
        return SAMPLERS["ddpm"]

    @property
    def times(self) -> Integers:
        return Integers(Purpose.TIMESTEP, len(self.process))

    def times_in_bin(self, number: int, bins: int, u: Tensor) -> Tensor:
        last = len(self.process) - 1
        return ((number + u.double()) * (len(self.process) / bins)).long().clamp_(max=last)

    def diffusion_time(self, t: Tensor) -> Tensor:
        """t / T."""
        return t.double() / len(self.process)

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.process.q_sample(x0, t, noise)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def loss(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Loss:
        return training_loss(self.process, output, x0, x_t, t, noise)

    @torch.no_grad()
    def sample(
        self, denoise: Denoise, start: Tensor, noise: Noise, settings: Sampling, on_step: OnStep | None = None
    ) -> Solution:
        """Denoises `start` through `settings.steps` evenly spaced steps of the training process, last to first.

        Whether sigma is learned shows in the output's channels. `ddim` never asks for noise, `ddpm` not in its last
        step.
        """
        if settings.sampler not in SAMPLERS["ddpm"]:
            raise UserError(f"evaluation.sampler={settings.sampler} is unknown: write {' or '.join(SAMPLERS['ddpm'])}")
        if settings.steps not in self._respaced:
            self._respaced[settings.steps] = self.process.respaced(settings.steps)
        process, x = self._respaced[settings.steps], start
        steps = torch.arange(len(process), device=x.device)
        for left in reversed(range(len(process))):
            t = steps[left].expand(len(x))
            output = denoise(x, process.tables(x.device).timesteps[t])
            with torch.autocast(x.device.type, enabled=False):
                prediction = predict(process, output, x, t, settings.clip_denoised)
                if settings.sampler == "ddim":
                    x = ddim_step(process, prediction, t)
                else:
                    x = ddpm_step(prediction, noise(left) if left > 0 else None)
            if on_step is not None:
                on_step(left, x)
        return Solution(x, torch.full((len(x),), len(process), device=x.device))


class Prediction(NamedTuple):
    """What a model says of the step from x_t; float32, (n, C, H, W)."""

    x0: Tensor
    eps: Tensor
    mean: Tensor
    log_variance: Tensor
    """May be (n, 1, 1, 1), where sigma is not learned."""


def predict(process: Process, output: Tensor, x_t: Tensor, t: Tensor, clip_denoised: bool = False) -> Prediction:
    """Read a model's output (n, C or 2C, H, W) for x_t (n, C, H, W) at steps t (n,) of `process`.

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
