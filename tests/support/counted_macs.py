"""What torch itself counts of a model, for costs to be compared with."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcdm.config.schema import ModelConfig
from fcdm.models import build_model


def counted(config: ModelConfig, channels: int, side: int, classes: int, learn_sigma: bool = True) -> tuple[int, int]:
    """Trainable parameters and forward MACs as torch counts them, on the meta device: nothing is computed."""
    with torch.device("meta"):
        model = build_model(config, channels=channels, side=side, classes=classes, learn_sigma=learn_sigma)
        x, t, labels = torch.empty(1, channels, side, side), torch.empty(1), torch.empty(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, labels)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return sum(p.numel() for p in model.parameters() if p.requires_grad), flops // 2
