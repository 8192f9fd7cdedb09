"""Classifier-free guidance (arXiv 2207.12598) as a function from (x, t) to a model output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fcdm.errors import UserError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""denoise(x (B, C, H, W), t (B,) int64 steps of the training process) -> (B, C or 2C, H, W)."""


def guided(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    labels: Tensor,
    null_class: int,
    scale: float,
    channels: int | None = None,
) -> Denoise:
    """The guided model: eps = uncond + scale (cond - uncond).

    Eq. 6 of the paper has w = scale - 1. Variance channels, and eps channels that are not guided, are the
    conditional ones. Scale 1 is no guidance and costs one forward pass of B; any other costs one of 2B.

    Args:
        model: model(x, t, labels) -> output.
        labels: (B,) or (B, K) int64.
        null_class: the label that stands for no label.
        scale: 1 no guidance, 0 unconditional.
        channels: guide so many of the first eps channels (the public codes: 3 of 4); None: all.

    Raises:
        UserError: channels not in [1, C]; when called, as C is known only then.
    """
    if scale == 1.0:
        return lambda x, t: model(x, t, labels)
    both_labels = torch.cat([labels, torch.full_like(labels, null_class)])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        count = x.shape[1] if channels is None else channels
        if not 1 <= count <= x.shape[1]:
            raise UserError(
                f"evaluation.guidance_channels must be between 1 and the data's {x.shape[1]} channels, "
                f"or null for all, not {channels}"
            )
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), both_labels).float().chunk(2)
        base = unconditional[:, :count]
        eps = base + scale * (conditional[:, :count] - base)
        return torch.cat([eps, conditional[:, count:]], dim=1)

    return denoise
