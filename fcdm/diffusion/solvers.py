"""Samplers for models of velocity: from noise at t = 0 to data at t = 1 (`fcdm.diffusion.flow`).

`euler`, `heun` and `dopri5` solve the ODE dx = v(x, t) dt. `sde` solves SiT's SDE with diffusion coefficient 1 - t
(arXiv 2401.08740), whose samples have the same distribution at each t, were v and the steps exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.config.samplers import SAMPLERS
from fcdm.diffusion.dopri5 import dopri5, like
from fcdm.diffusion.objective import Denoise, Noise, OnStep, Sampling, Solution
from fcdm.errors import UserError

FLOW_SAMPLERS = SAMPLERS["flow"]


@torch.no_grad()
def solve(denoise: Denoise, start: Tensor, noise: Noise, settings: Sampling, on_step: OnStep | None = None) -> Solution:
    """Samples of a velocity model, each a function of its own start, label and noises alone.

    Args:
        denoise: denoise(x (n, ...), t (n,)) -> velocity (n, ...) of any float type; t in [0, 1], in the start's type.
        start: (n, ...) float32 standard normal; arithmetic is done in its type, float64 too.
        noise: asked for k = steps - 1 to 1 by `sde`, and never by the other samplers.
        settings: `euler` (a call per step), `heun` (two), `dopri5` (adaptive) or `sde` (one). Steps are even, from
            0 to 1; of `sde`, steps - 1 to 1 - last_step and a last one without noise.
        on_step: `left` counts steps, or in `dopri5` unfinished samples.

    Raises:
        UserError: an unknown sampler, too few steps, tolerances that are not positive; `dopri5` does not come to an
            end, as with a velocity that is not finite.
    """
    sampler, steps = settings.sampler, settings.steps
    if sampler not in FLOW_SAMPLERS:
        raise UserError(f"evaluation.sampler={sampler} is no sampler of a flow model: write {_listed(FLOW_SAMPLERS)}")
    start = start.detach()
    if sampler == "dopri5":
        return Solution(*dopri5(denoise, start, atol=settings.atol, rtol=settings.rtol, on_step=on_step))
    fewest = 2 if sampler == "sde" else 1
    if steps < fewest:
        raise UserError(f"evaluation.sampling_steps must be at least {fewest} for sampler {sampler}, not {steps}")
    if sampler == "sde":
        x = _sde(denoise, start, noise, steps, settings.last_step, on_step)
    else:
        x = _fixed(denoise, start, steps, sampler == "heun", on_step)
    calls = 2 * steps if sampler == "heun" else steps
    return Solution(x, torch.full((len(start),), calls, device=start.device))


def euler_step(denoise: Denoise, x: Tensor, t: float, dt: float) -> Tensor:
    """x at t + dt from x (n, ...) at t: first order."""
    return x + dt * velocity(denoise, x, t)


def heun_step(denoise: Denoise, x: Tensor, t: float, dt: float) -> Tensor:
    """x at t + dt by the mean of both ends' velocities (explicit trapezoidal rule): second order, two calls."""
    first = velocity(denoise, x, t)
    second = velocity(denoise, x + dt * first, t + dt)
    return x + 0.5 * dt * (first + second)


def sde_step(denoise: Denoise, x: Tensor, t: float, dt: float, noise: Tensor | None) -> Tensor:
    """An Euler-Maruyama step of dx = (v + w s) dt + sqrt(2 w) dW, w = 1 - t; its mean, where noise is None.

    s is the score, and (1 - t) s = -E[noise | x_t] is finite at t = 1 too. w is the public code's "diffusion
    coefficient" of form `sigma`; the paper's w_t (section 2) is 2 w.
    """
    v = velocity(denoise, x, t)
    time = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    mean = x + dt * (v - predict_noise(v, x, time))
    return mean if noise is None else mean + (2.0 * (1.0 - t) * dt) ** 0.5 * noise


def velocity(denoise: Denoise, x: Tensor, t: float) -> Tensor:
    """The model's answer at one time for all, in the type of x."""
    return denoise(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device)).to(x.dtype)


def predict_noise(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """E[noise | x_t] = x_t - t v, from the mean velocity v (n, ...) at t (n,)."""
    return x_t - like(t, x_t) * velocity


def _fixed(denoise: Denoise, x: Tensor, steps: int, heun: bool, on_step: OnStep | None) -> Tensor:
    step = heun_step if heun else euler_step
    for k in range(steps):
        # Of whole numbers, so that the last step ends at 1.0 and not beside it.
        x = step(denoise, x, k / steps, (k + 1) / steps - k / steps)
        if on_step is not None:
            on_step(steps - 1 - k, x)
    return x


def _sde(
    denoise: Denoise,
    x: Tensor,
    noise: Noise,
    steps: int,
    last_step: float,
    on_step: OnStep | None,
) -> Tensor:
    """The public code's grid: linspace(0, 1 - last_step, steps), and a last step from its end."""
    if not 0.0 < last_step < 1.0:
        raise UserError(f"the last step of sampler sde must be between 0 and 1, not {last_step:g}")
    dt = (1.0 - last_step) / (steps - 1)
    for k in range(steps - 1):
        left = steps - 1 - k
        x = sde_step(denoise, x, k * dt, dt, noise(left))
        if on_step is not None:
            on_step(left, x)
    x = sde_step(denoise, x, 1.0 - last_step, last_step, None)
    if on_step is not None:
        on_step(0, x)
    return x


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
