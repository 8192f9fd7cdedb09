"""Guidance: from a model of (x, t, labels) to a function of (x, t).

Classifier-free guidance (arXiv 2207.12598), in an interval of noise levels (arXiv 2404.07724), or by a weaker
model (autoguidance, arXiv 2406.02507). The same for models of noise, with or without variance channels, and of
velocity: each is a linear function of the score, which is what guidance extrapolates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fcdm.errors import UserError

Model = Callable[..., Tensor]
"""model(x (n, C, ...), t (n,), labels (n,) or (n, K) int64, **conditions) -> (n, C or 2C, ...)."""

TOLERANCE = 1e-6
"""An interval's ends, and times that are float32, are meant to this."""


@dataclass(frozen=True)
class Guided:
    """The guided model, a `Denoise`: base + scale (cond - base), with base the unconditional output, or that of `weak`.

    In eq. 6 of classifier-free guidance w = scale - 1, in the other two papers w = scale. Variance channels, and
    those that are not guided, are the conditional ones. Scale 1 is no guidance, whatever else is given, and
    costs one forward pass per image; any other costs two where it guides.

    Raises:
        UserError: a scale or an interval that is none; `channels` with `weak`; when called, channels not in
            [1, C], as C is known only then.
        ValueError: an interval without `time`.
    """

    model: Model
    labels: Tensor
    """(n,) or (n, K) int64."""
    null_class: int
    """The label that stands for no label."""
    scale: float
    """1 no guidance, 0 base alone."""
    channels: int | None = None
    """Guide so many of the first C channels (the public codes: 3 of 4); None: all."""
    interval: tuple[float, float] | None = None
    """Guide only at diffusion times in [lo, hi], ends included, 0 data to 1 noise; outside of it the conditional
    output alone, for one forward pass. None: everywhere, and no call waits for the device."""
    time: Callable[[Tensor], Tensor] | None = None
    """From the model's t (n,) to diffusion time, `Objective.diffusion_time`; needed with `interval`. The same number
    means less noise of the linear path than of DDPM's schedule: compare noise levels, sigma / alpha, first."""
    weak: Model | None = None
    """A smaller or less trained model of the same data, called with the same labels. It may have or lack variance
    channels, whatever `model` has."""
    conditions: Mapping[str, Tensor] = field(default_factory=dict)
    """Keywords for both models, (n, ...) each; the same with and without the label."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"evaluation.guidance_scale must be a finite number, not {self.scale}")
        if self.interval is not None:
            low, high = self.interval
            if not 0.0 <= low < high <= 1.0:
                raise UserError(
                    f"evaluation.guidance_interval=[{low:g},{high:g}] must be two diffusion times with "
                    "0 <= from < to <= 1 (0 data, 1 noise), or null to guide everywhere"
                )
            if self.time is None:
                raise ValueError("a guidance interval needs `time`: from the model's t to diffusion time")
        if self.weak is not None and self.channels is not None:
            raise UserError(
                "evaluation.guidance_channels belongs to classifier-free guidance; a weaker checkpoint guides all "
                "channels: leave evaluation.guidance_channels null, or the weaker checkpoint out"
            )

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.scale == 1.0:
            return self.model(x, t, self.labels, **self.conditions)
        channels = x.shape[1] if self.channels is None else self.channels
        if not 1 <= channels <= x.shape[1]:
            raise UserError(
                f"evaluation.guidance_channels must be between 1 and the data's {x.shape[1]} channels, "
                f"or null for all, not {self.channels}"
            )
        if self.interval is None:
            conditional, base = self._both(x, t, x, t, slice(None))
            return self._combined(conditional, base, channels)
        rows = self._inside(t)
        if len(rows) == 0:
            return self.model(x, t, self.labels, **self.conditions).float()
        # Where samples have times of their own, only those inside the interval pay for a second forward pass.
        conditional, base = self._both(x, t, x[rows], t[rows], rows)
        conditional[rows] = self._combined(conditional[rows], base, channels)
        return conditional

    def _both(self, x: Tensor, t: Tensor, x2: Tensor, t2: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """What is asked for, of x, and what is led away from, of its rows x2; float32."""
        if self.weak is not None:
            weak = self.weak(x2, t2, self.labels[rows], **{name: c[rows] for name, c in self.conditions.items()})
            return self.model(x, t, self.labels, **self.conditions).float(), weak.float()
        labels = torch.cat([self.labels, torch.full_like(self.labels, self.null_class)[rows]])
        both = {name: torch.cat([c, c[rows]]) for name, c in self.conditions.items()}
        output = self.model(torch.cat([x, x2]), torch.cat([t, t2]), labels, **both).float()
        return output[: len(x)], output[len(x) :]

    def _combined(self, conditional: Tensor, base: Tensor, channels: int) -> Tensor:
        low = base[:, :channels]
        led = low + self.scale * (conditional[:, :channels] - low)
        return torch.cat([led, conditional[:, channels:]], dim=1)

    def _inside(self, t: Tensor) -> Tensor:
        """Rows whose time lies in the interval, (k,) int64. Waits for the device."""
        assert self.interval is not None
        assert self.time is not None
        time = self.time(t)
        inside = (time >= self.interval[0] - TOLERANCE) & (time <= self.interval[1] + TOLERANCE)
        return inside.nonzero().flatten()
