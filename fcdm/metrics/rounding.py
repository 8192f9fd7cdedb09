"""From a model's numbers to the 8-bit images that metrics see."""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.errors import UserError


def to_uint8(x: Tensor) -> Tensor:
    """Images of any shape, -1 black to 1 white, as uint8: truncate(clamp(127.5 x + 128, 0, 255)).

    The rule of the public DiT and FCDM samplers. Computed in at least float32, since bfloat16 has 8 bits for
    256 levels. UserError for NaN: a cast would turn a diverged model's output into innocent black images.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    if torch.isnan(x).any():
        raise UserError(
            "the samples contain NaN: the model has diverged; lower optimiser.lr or evaluate an earlier step"
        )
    return (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
