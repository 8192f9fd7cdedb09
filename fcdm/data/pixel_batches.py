"""Images as models see them: bytes as float32 from -1 to 1, mirrored as `data.flip` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FROZEN_SEED = 0
"""Of the one flip and, of latents, the one draw per image that `frozen` means, whatever the run's seed."""


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes as models see them: float32, 0 is -1 and 255 is 1."""
    return pixels.float().div_(127.5).sub_(1)


def mirrored(x0: torch.Tensor, flip: str, drawn: Sequence[torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
    """The images (n, C, side, side), half of them mirrored where `data.flip` says so.

    drawn: the tosses (n,) of `random`; numbers: which images these are (n,), for the tosses of `frozen`.
    """
    import torch

    from fcdm.randomness import Purpose, uniform

    if flip == "none":
        return x0
    toss = drawn[0] if drawn else uniform(FROZEN_SEED, Purpose.FLIP, 0, numbers, ())
    return torch.where((toss < 0.5)[:, None, None, None], x0.flip(-1), x0)
