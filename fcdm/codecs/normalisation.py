"""Mean and deviation of each channel of latents, and back: `data.normalisation=channel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """Of the latents as the VAE makes them, unscaled, over all images of a store and their mirror images."""

    mean: tuple[float, ...]
    """Of each channel."""
    deviation: tuple[float, ...]
    """Of each channel: of the means over all places and of the VAE's own variance together (law of total variance)."""

    def latents(self, x: Tensor) -> Tensor:
        """The VAE's latents (n, C, h, w) of what models see, (latent - mean) / deviation of each channel."""
        return x * _of_channels(self.deviation, x) + _of_channels(self.mean, x)


def _of_channels(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]


def channels_of(mean: Sequence[float] | None, deviation: Sequence[float] | None) -> Channels | None:
    """What a configuration keeps (`data.channel_mean`, `data.channel_deviation`); None where it keeps none."""
    return Channels(tuple(mean), tuple(deviation)) if mean is not None and deviation is not None else None
