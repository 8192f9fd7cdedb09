"""Mixtures of Gaussians on the linear path x_t = t data + (1 - t) noise: everything about them is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fcdm.randomness import Purpose, normal


@dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussians in d dimensions; x may be (n, d) or (n, d, 1, ...)."""

    shares: list[float]
    centres: list[list[float]]
    stds: list[float]

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Centres and variances at t of each component, log densities, and what is known of x in float64."""
        flat, time = x.double().flatten(1)[:, None], t.double()[:, None, None]  # (n, 1, d), (n, 1, 1)
        centres = torch.tensor(self.centres, dtype=torch.float64, device=x.device)
        stds = torch.tensor(self.stds, dtype=torch.float64, device=x.device)[:, None]
        shares = torch.tensor(self.shares, dtype=torch.float64, device=x.device)
        variance = (time * stds).square() + (1 - time).square()  # (n, c, 1)
        away = flat - time * centres  # (n, c, d)
        d = flat.shape[-1]
        exponent = -0.5 * away.square().sum(-1) / variance[..., 0]
        log_density = shares.log() + exponent - 0.5 * d * (2 * math.pi * variance[..., 0]).log()
        return centres, stds, variance, away, log_density

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), (n,) float64."""
        return self._parts(x, t)[-1].logsumexp(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[data - noise | x_t = x], in x's shape and type."""
        centres, stds, variance, away, log_density = self._parts(x, t)
        time = t.double()[:, None, None]
        of_component = centres + (time * stds.square() - (1 - time)) / variance * away
        responsibility = log_density.softmax(1)[..., None]
        return (responsibility * of_component).sum(1).view_as(x).to(x.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of the data, float64."""
        shares = torch.tensor(self.shares, dtype=torch.float64)
        centres = torch.tensor(self.centres, dtype=torch.float64)
        mean = shares @ centres
        away = centres - mean
        spread = (shares * torch.tensor(self.stds, dtype=torch.float64).square()).sum()
        return mean, away.T @ (shares[:, None] * away) + spread * torch.eye(centres.shape[1], dtype=torch.float64)


GAUSSIAN = Mixture([1.0], [[0.7, -1.2]], [0.4])
TWO = Mixture([0.3, 0.7], [[-1.0, 0.5], [0.8, -0.6]], [0.25, 0.25])
LINE = Mixture([0.3, 0.7], [[-1.0], [0.8]], [0.3, 0.2])


def draw(seed: int, count: int, *shape: int, step: int = 0) -> Tensor:
    """Standard normal (count, *shape) float32."""
    return normal(seed, Purpose.NOISE, step, torch.arange(count), shape)
