"""Floor 1: the networks. Pure torch; knows no Hydra, MLflow, SLURM or files."""

from __future__ import annotations

from typing import Any

from torch import nn

from fcdm.config.model_checks import check_model
from fcdm.config.schema import CustomConfig, DiTConfig, FCDMConfig, ModelConfig
from fcdm.models.dit import DiT
from fcdm.models.fcdm import FCDM
from fcdm.models.user_model import build_custom

__all__ = ["FCDM", "DiT", "build_model"]


def build_model(
    config: ModelConfig,
    *,
    channels: int,
    side: int,
    classes: int,
    learn_sigma: bool,
    activation_checkpointing: bool = False,
) -> nn.Module:
    """The network of a configuration, freshly initialised, in float32.

    `model(x, t, labels)`: x (B, channels, side, side); t (B,), fractional allowed; labels (B,) or (B,
    model.label_embedders) int64 in [0, classes], where `classes` (= model.null_class) is the null class. Returns
    (B, channels, side, side), with `learn_sigma` twice the channels, in x's dtype. bfloat16 goes through
    `torch.autocast`. `model.is_stochastic`: it draws from torch's generator in training, as for dropout.
    `activation_checkpointing` recomputes each block in backward, when training only.
    Raises UserError where the configuration and the side do not fit (`fcdm.config.model_checks`).
    """
    check_model(config, side=side, resolution=side, downsample=1)
    given: dict[str, Any] = {
        "channels": channels,
        "classes": classes,
        "learn_sigma": learn_sigma,
        "activation_checkpointing": activation_checkpointing,
    }
    if isinstance(config, FCDMConfig):
        return FCDM(config, **given)  # any side: it is fully convolutional
    if isinstance(config, CustomConfig):
        return build_custom(config, side=side, **given)
    assert isinstance(config, DiTConfig)  # check_model knows these families only
    return DiT(config, side=side, **given)
