"""What a model is built for: it follows from the data, the resolution and the objective."""

from __future__ import annotations

from typing import Any

from fcdm.config.schema import Config


def shape_of(config: Config) -> dict[str, Any]:
    """Keywords of `build_model` and `model_cost`: channels, side (of latents or pixels), classes, learn_sigma."""
    return {
        "channels": config.data.channels,
        "side": config.resolution // config.data.downsample,
        "classes": config.data.classes,
        "learn_sigma": config.diffusion.learn_sigma,
    }
