"""What a run costs, from its configuration."""

from __future__ import annotations

from fcdm.config.schema import Config
from fcdm.cost import ModelCost, model_cost


def run_cost(config: Config) -> ModelCost:
    """Parameters, MACs and FLOPs of the run's model on its data."""
    return model_cost(
        config.model,
        channels=config.data.channels,
        side=config.resolution // config.data.downsample,
        classes=config.data.classes,
        learn_sigma=config.diffusion.learn_sigma,
    )


def train_flops(config: Config, steps: int) -> int:
    """FLOPs of training the run for so many steps."""
    return run_cost(config).train_flops(config.batch_size, steps)
