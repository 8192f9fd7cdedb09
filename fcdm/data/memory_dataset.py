"""Images that fit in memory, kept on the training device: the digits, and a data set of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fcdm.data.pixel_batches import from_uint8, mirrored

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fcdm.randomness import Asked


@dataclass(frozen=True)
class ImageSide:
    """One side of a data set: trained on, or held out."""

    images: torch.Tensor
    """(N, C, side, side), uint8 or float32 in [-1, 1]."""
    labels: torch.Tensor
    """(N,) int64."""
    conditions: dict[str, torch.Tensor] = field(default_factory=dict)
    """Name -> (N, ...) float32."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSide:
        conditions = {name: tensor.to(device) for name, tensor in self.conditions.items()}
        return ImageSide(self.images.to(device), self.labels.to(device), conditions)

    def seen(self, places: torch.Tensor) -> torch.Tensor:
        """Images there as models see them: float32 from -1 to 1."""
        import torch

        images = self.images[places]
        return from_uint8(images) if images.dtype == torch.uint8 else images


class MemoryDataset:
    """A `Dataset` whose sides are on the device."""

    reads_files = False
    host_draws: tuple[Asked, ...] = ()

    def __init__(self, train: ImageSide, held: ImageSide, flip: str, device: torch.device) -> None:
        from fcdm.randomness import Purpose, Uniform

        self.device, self.flip = device, flip
        self.device_draws: tuple[Asked, ...] = (Uniform(Purpose.FLIP, ()),) if flip == "random" else ()
        self.train, self.held = train.to(device), held.to(device)

    def __len__(self) -> int:
        return len(self.train)

    def fetch(self, items: np.ndarray, drawn: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        chosen = torch.from_numpy(items)
        return chosen.pin_memory() if self.device.type == "cuda" else chosen

    def finish(self, fetched: torch.Tensor, drawn: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = fetched.to(self.device, non_blocking=True)
        return mirrored(self.train.seen(chosen), self.flip, drawn, chosen), self.train.labels[chosen]

    @property
    def heldout(self) -> int:
        return len(self.held)

    def unaltered(self, items: np.ndarray, heldout: bool) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        side, chosen = self.held if heldout else self.train, torch.from_numpy(items).to(self.device)
        return side.seen(chosen), side.labels[chosen]
