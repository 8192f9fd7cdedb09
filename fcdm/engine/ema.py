"""Exponential moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from fcdm.config.schema import EMAConfig


def ema_decay(config: EMAConfig, step: int) -> float:
    """Decay of the update that follows training step `step` (1 for the first).

    The configured decay d has half-life ln(1/2)/ln(d) steps; `rampup` bounds it by that fraction of the steps
    so far, as EDM's training does in images (arXiv 2206.00364, its public code). A function of the steps so far
    and never of the last one, so that one trajectory serves several budgets.
    """
    if config.rampup is None or config.decay <= 0.0 or config.decay >= 1.0:
        return config.decay
    halflife = min(math.log(0.5) / math.log(config.decay), config.rampup * step)
    return math.exp2(-1.0 / halflife)


@torch.no_grad()
def update_ema(average: list[nn.Parameter], current: list[nn.Parameter], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in one fused call per device."""
    torch._foreach_lerp_([p.data for p in average], [p.data for p in current], 1.0 - decay)
