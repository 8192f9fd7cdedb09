"""What a run costs, from its configuration: parameters, MACs of a forward pass, FLOPs of training."""

from __future__ import annotations

from typing import Any

from fcdm.config.schema import Config


def cost_of(config: Config) -> dict[str, Any]:
    return {"parameters": 0, "forward_macs": 0, "train_flops_per_image": 0, "train_flops_per_step": 0}


def train_flops(config: Config, steps: int) -> float:
    return float(steps)
