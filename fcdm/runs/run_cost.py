"""What a run costs, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fcdm.config.schema import Config, CustomConfig, ModelConfig
from fcdm.config.shape import shape_of
from fcdm.cost.model_cost import FLOAT_BYTES, ModelCost, model_cost
from fcdm.runs.trials import custom_cost


def run_cost(config: Config) -> ModelCost:
    """Parameters, MACs and FLOPs of the run's model on its data."""
    return cost_of(config.model, **shape_of(config), conditions=config.data.conditions)


def cost_of(
    model: ModelConfig,
    *,
    channels: int,
    side: int,
    classes: int,
    learn_sigma: bool = True,
    conditions: Mapping[str, Sequence[int]] | None = None,
) -> ModelCost:
    """`fcdm.cost.model_cost`, also of a user's own model. Raises UserError for one that cannot be built or run.

    conditions: what a user's own is given besides: name -> shape of one image's.
    """
    shape: dict[str, Any] = {"channels": channels, "side": side, "classes": classes, "learn_sigma": learn_sigma}
    if isinstance(model, CustomConfig):
        return custom_cost(model, **shape, conditions=conditions)
    return model_cost(model, **shape)


def average_bytes(config: Config) -> int:
    """Of the power function averages that the run is asked to track."""
    return FLOAT_BYTES * run_cost(config).parameters * len(config.power_ema.sigma_rel or [])


def checkpoint_bytes(config: Config) -> int:
    """Of one checkpoint: what `ModelCost.checkpoint_bytes` counts, and the power function averages."""
    return run_cost(config).checkpoint_bytes + average_bytes(config)


def saved_bytes(config: Config) -> int:
    """What training writes at most when it is told to stop: a checkpoint, and at a budget a snapshot."""
    return checkpoint_bytes(config) + average_bytes(config)


def epochs(config: Config, steps: int) -> float | None:
    """How often so many steps show each image that is trained on; None: how many there are is not known."""
    images = config.data.images
    return None if images is None else steps * config.batch_size / images


def train_flops(config: Config, steps: int) -> int:
    """FLOPs of training the run for so many steps."""
    return run_cost(config).train_flops(config.batch_size, steps)
