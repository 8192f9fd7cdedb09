"""Inception's network on weights that anyone can draw, and images for it."""

from __future__ import annotations

from typing import Any

import torch

from fcdm.features.inception import Inception


def random_weights() -> dict[str, torch.Tensor]:
    """Weights that keep activations near 1 in size; torch.rand is multiples of 2^-24, alike on all machines."""
    generator = torch.Generator().manual_seed(0)
    state = Inception().state_dict()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        u = torch.rand(state[key].shape, generator=generator)
        if key.endswith(("running_var", "bn.weight")):
            state[key] = 0.5 + u
        elif key.endswith(("running_mean", "bias")):
            state[key] = 0.4 * u - 0.2
        else:
            state[key] = (2 * u - 1) * (6 / u[0].numel()) ** 0.5 * (0.1 if key == "fc.weight" else 1)
    return state


def random_images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def close(got: torch.Tensor, expected: Any) -> bool:
    """To 1e-5 of the largest."""
    expected = torch.as_tensor(expected)
    return float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
