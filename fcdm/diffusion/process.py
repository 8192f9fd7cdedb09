"""The Gaussian diffusion process: its tables, its forward process and its posterior.

DDPM: arXiv 2006.11239. Improved DDPM (learned variance, fewer steps): arXiv 2102.09672. Steps are counted
from 0 here, so alpha_bar[0] is the papers' with index 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError


@dataclass(frozen=True)
class Tables:
    """One number per step, (S,), on one device: float32, but for `timesteps` (int64)."""

    timesteps: Tensor
    alpha_bar_prev: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    sqrt_recip_alpha_bar: Tensor
    sqrt_recip_alpha_bar_minus_one: Tensor
    posterior_mean_x0: Tensor
    posterior_mean_xt: Tensor
    posterior_log_variance: Tensor
    log_betas: Tensor


@dataclass(frozen=True, eq=False)
class Process:
    """A diffusion process of S steps, possibly a subset of the steps that the model was trained on.

    Two indices are told apart: `t` in [0, S) counts this process' own steps, and `timesteps[t]` is the
    training process' step, which is what the model must see. Tables are float64 numpy arrays of shape (S,).
    """

    betas: NDArray[np.float64]
    """Variance of each forward step (DDPM eq. 2)."""
    timesteps: NDArray[np.int64]
    """The training process' step of each kept step."""
    # By device; a cache, so no part of what the process is.
    _tables: dict[torch.device, Tables] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.betas) < 2:
            raise UserError(f"diffusion needs at least 2 timesteps, not {len(self.betas)}")
        if not (np.all(self.betas > 0) and np.all(self.betas < 1)):
            raise UserError(
                f"diffusion betas must lie in (0, 1), not {self.betas.min():g} to {self.betas.max():g}: "
                "set diffusion.beta_start and diffusion.beta_end so"
            )
        for table in (self.betas, self.timesteps):
            table.setflags(write=False)

    @classmethod
    def create(cls, timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> Process:
        """The training process, with betas evenly spaced between the two ends (DDPM section 4).

        Raises:
            UserError: fewer than 2 timesteps, or a beta outside (0, 1).
        """
        if timesteps < 2:
            raise UserError(f"diffusion.timesteps must be at least 2, not {timesteps}")
        return cls(np.linspace(beta_start, beta_end, timesteps, dtype=np.float64), np.arange(timesteps))

    def respaced(self, steps: int) -> Process:
        """The process of `steps` of this one's steps, evenly spaced, with its first and last.

        Kept step k is round(k (S - 1) / (steps - 1)), the stride being accumulated and halves rounded to
        even, as the public codes do. alpha_bar keeps its values at the kept steps; betas are recomputed from
        it (improved DDPM eq. 19).

        Raises:
            UserError: steps not in [2, S].
        """
        if not 2 <= steps <= len(self):
            raise UserError(
                f"sampling steps must be between 2 and the {len(self)} timesteps of training, not {steps}: "
                "set evaluation.sampling_steps so"
            )
        stride = (len(self) - 1) / (steps - 1)
        position, kept = 0.0, []
        for _ in range(steps):
            kept.append(round(position))
            position += stride
        alpha_bar = self.alpha_bar[kept]
        return Process(1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1]), self.timesteps[kept])

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> NDArray[np.float64]:
        """Product of 1 - beta up to and including each step: the signal's share of variance (DDPM eq. 4)."""
        return np.cumprod(1.0 - self.betas, dtype=np.float64)

    @cached_property
    def alpha_bar_prev(self) -> NDArray[np.float64]:
        """alpha_bar of the step before; 1 before the first."""
        return np.append(1.0, self.alpha_bar[:-1])

    @cached_property
    def posterior_variance(self) -> NDArray[np.float64]:
        """Variance of x_{t-1} given x_t and x_0 (DDPM eq. 7); 0 at the first step."""
        return self.betas * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)

    @cached_property
    def posterior_log_variance(self) -> NDArray[np.float64]:
        """Its logarithm; the first step's, which would be minus infinity, is replaced by the second's."""
        log_variance: NDArray[np.float64] = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        return log_variance

    @cached_property
    def posterior_mean_x0(self) -> NDArray[np.float64]:
        """Weight of x_0 in the posterior's mean (DDPM eq. 7)."""
        return self.betas * np.sqrt(self.alpha_bar_prev) / (1.0 - self.alpha_bar)

    @cached_property
    def posterior_mean_xt(self) -> NDArray[np.float64]:
        """Weight of x_t in the posterior's mean (DDPM eq. 7)."""
        return (1.0 - self.alpha_bar_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alpha_bar)

    def tables(self, device: torch.device) -> Tables:
        """The tables on a device; copied there once, so that no later step waits for a copy."""
        if device not in self._tables:

            def put(table: NDArray[np.float64]) -> Tensor:
                return torch.tensor(table, dtype=torch.float32, device=device)

            self._tables[device] = Tables(
                timesteps=torch.tensor(self.timesteps, dtype=torch.int64, device=device),
                alpha_bar_prev=put(self.alpha_bar_prev),
                sqrt_alpha_bar=put(np.sqrt(self.alpha_bar)),
                sqrt_one_minus_alpha_bar=put(np.sqrt(1.0 - self.alpha_bar)),
                sqrt_recip_alpha_bar=put(np.sqrt(1.0 / self.alpha_bar)),
                sqrt_recip_alpha_bar_minus_one=put(np.sqrt(1.0 / self.alpha_bar - 1.0)),
                posterior_mean_x0=put(self.posterior_mean_x0),
                posterior_mean_xt=put(self.posterior_mean_xt),
                posterior_log_variance=put(self.posterior_log_variance),
                log_betas=put(np.log(self.betas)),
            )
        return self._tables[device]

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t, the data after t + 1 forward steps in one go (DDPM eq. 4).

        Args:
            x0: (B, ...) float32 data.
            t: (B,) int64 steps of this process.
            noise: (B, ...) float32 standard normal.
        """
        tables = self.tables(x0.device)
        return at(tables.sqrt_alpha_bar, t, x0) * x0 + at(tables.sqrt_one_minus_alpha_bar, t, x0) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x_0 that x_t (B, ...) came from, were its noise `eps` (DDPM eq. 15)."""
        tables = self.tables(x_t.device)
        return at(tables.sqrt_recip_alpha_bar, t, x_t) * x_t - at(tables.sqrt_recip_alpha_bar_minus_one, t, x_t) * eps

    def predict_eps(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise in x_t (B, ...), did it come from x0: the inverse of `predict_x0`."""
        tables = self.tables(x_t.device)
        signal = at(tables.sqrt_recip_alpha_bar, t, x_t) * x_t - x0
        return signal / at(tables.sqrt_recip_alpha_bar_minus_one, t, x_t)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of x_{t-1} given x_t and x_0, each (B, ...) (DDPM eq. 7)."""
        tables = self.tables(x_t.device)
        return at(tables.posterior_mean_x0, t, x0) * x0 + at(tables.posterior_mean_xt, t, x_t) * x_t

    def log_variance(self, x_t: Tensor, t: Tensor, v: Tensor | None) -> Tensor:
        """Log-variance of the model's step from x_t, broadcastable to x_t (B, ...).

        Without `v`, the posterior's. With it, (B, ...) and -1 to 1 (not clamped), the "learned range"
        (improved DDPM eq. 15): -1 is the posterior's, 1 that of the forward step.
        """
        tables = self.tables(x_t.device)
        low = at(tables.posterior_log_variance, t, x_t)
        if v is None:
            return low
        fraction = (v + 1.0) / 2.0
        return fraction * at(tables.log_betas, t, x_t) + (1.0 - fraction) * low


def at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries t (B,) of a table (S,), shaped (B, 1, ...) to broadcast against `like`."""
    return table[t].view(-1, *[1] * (like.ndim - 1))


def split_output(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A model's output as (eps, v), float32, each (B, C, H, W); v is None without variance channels.

    Args:
        output: (B, C, H, W) or, with learned sigma, (B, 2C, H, W): first eps, then v.
        channels: C, of the data.

    Raises:
        ValueError: any other number of channels.
    """
    if output.shape[1] == channels:
        return output.float(), None
    if output.shape[1] == 2 * channels:
        return output[:, :channels].float(), output[:, channels:].float()
    raise ValueError(
        f"a model's output for {channels} channels has {channels} or {2 * channels}, not {output.shape[1]}"
    )
