"""The feature space that a configuration is evaluated in: which extractor, named at once, opened where it works.

Torch-free until it is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.config.schema import Config
from fcdm.config.spaces import DINOV2, OF_THE_DATA
from fcdm.config.user_code import FEATURES, UserCode, code_of
from fcdm.features import Extractor, extractor_id, open_extractor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Space:
    """An extractor by its name, and what else says which one it is."""

    name: str
    weights: str | Path | None = None
    """Where its weights are; None: where the extractor looks by itself."""
    channels: int = 3
    """Of the images."""
    side: int = 0
    """Of the images, for the user's own extractors."""
    own: UserCode | None = None
    """Of the user's own, instead of the name."""
    store: str | None = None
    """Checksum of the store at `weights`, whose classifier it is."""

    @property
    def id(self) -> str:
        """Names the weights too. Raises UserError where they are not there."""
        return self.own.short_id if self.own else extractor_id(self.name, self.weights, self.channels, self.store)

    def open(self, device: torch.device) -> Extractor:
        """Ready on the device. Raises UserError."""
        if self.own is None:
            return open_extractor(self.name, device, self.weights, self.channels, self.store)
        from fcdm.features.user_extractor import open_own

        return open_own(self.own, device, channels=self.channels, side=self.side)


INCEPTION = Space("inception")


def asked_space(config: Config) -> Space:
    """The one that the configuration names."""
    asked = config.evaluation
    weights = asked.dinov2 if asked.features in DINOV2 else None
    if asked.features == "classifier":
        weights = config.data.path
    own = code_of(config, FEATURES)
    return Space(asked.features, weights, channels_seen(config), config.resolution, own, config.data.checksum)


def channels_seen(config: Config) -> int:
    """Of the images that features are taken of: those of a reference are RGB, and so are samples beside it."""
    return config.data.channels if compared_with(config) != "reference" else 3


def compared_with(config: Config) -> str:
    """What samples are compared with: `store`, the images of the store of pixels, or of the data set of the user's own,
    that is trained on; `memory`, those of the digits; `reference`, a file or folder."""
    asked = config.evaluation
    if asked.reference is not None and asked.features not in OF_THE_DATA:
        return "reference"
    if config.data.downsample == 1 and (config.data.path is not None or config.data.target is not None):
        return "store"
    published = asked.features in ("inception", *DINOV2)
    return "memory" if config.data.downsample == 1 and not published else "reference"
