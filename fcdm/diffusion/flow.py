"""Flow matching on the linear path as an objective.

SiT (arXiv 2401.08740, section 2) with its public code's direction of time, t in [0, 1]: t = 0 noise, t = 1 data
(the paper counts the other way). A time enters the model as it is, not times 1000. There are no variance channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.diffusion.dopri5 import like
from fcdm.diffusion.objective import Denoise, Loss, Noise, OnStep, Sampling, Solution
from fcdm.diffusion.solvers import FLOW_SAMPLERS, solve
from fcdm.randomness import Purpose, Uniform


class FlowMatching:
    """An `Objective`: times are float32 in [0, 1), the model predicts the velocity, the same at each t of a path."""

    samplers: tuple[str, ...] = FLOW_SAMPLERS
    times = Uniform(Purpose.TIMESTEP, ())

    def times_in_bin(self, number: int, bins: int, u: Tensor) -> Tensor:
        return 1.0 - (number + u) / bins

    def diffusion_time(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1.0 - t.double()

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = t x0 + (1 - t) noise: alpha_t and sigma_t of the linear path."""
        time = like(t, x0)
        return time * x0 + (1.0 - time) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """d x_t / d t = x0 - noise."""
        return x0 - noise

    def loss(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """Mean squared error of the velocity; `Loss.mse` is the same and `Loss.vb` None."""
        if output.shape != x0.shape:
            raise ValueError(f"a velocity has the data's shape {tuple(x0.shape)}, not {tuple(output.shape)}")
        with torch.autocast(x0.device.type, enabled=False):
            error = (output.float() - self.target(x0.float(), noise.float(), t)).square()
            # The added dimension lets samples be single numbers, (n,), too.
            mse = error[:, None].flatten(1).mean(1)
        return Loss(mse, mse, None)

    def sample(
        self, denoise: Denoise, start: Tensor, noise: Noise, settings: Sampling, on_step: OnStep | None = None
    ) -> Solution:
        return solve(denoise, start, noise, settings, on_step)
