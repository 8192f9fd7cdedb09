"""Constants of the recipes that hold only under their own conditions: where those are not met, the neutral value does.

What the user says stays, and is refused by the checks where it cannot be.
"""

from __future__ import annotations

from fcdm.config.said import Said
from fcdm.config.schema import Config

PUBLIC_GUIDED, PUBLIC_CHANNELS = 3, 4
"""The public codes guide 3 of the 4 latent channels of their VAEs: of the paper's recipe."""


def settle(config: Config, said: Said) -> Config:
    """The configuration, changed in place where a constant that nobody said does not hold."""
    asked = config.evaluation
    by_weak = asked.guidance_weak is not None and asked.guidance_scale != 1.0  # which guides all channels
    if (
        asked.guidance_channels == PUBLIC_GUIDED
        and "evaluation.guidance_channels" not in said.keys
        and (by_weak or config.data.channels != PUBLIC_CHANNELS)
    ):
        asked.guidance_channels = None
    return config
