"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: list[nn.Parameter], current: list[nn.Parameter], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in one fused call per device."""
    torch._foreach_lerp_([p.data for p in average], [p.data for p in current], 1.0 - decay)
