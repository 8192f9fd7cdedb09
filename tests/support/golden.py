"""Weights and inputs on which the public FCDM-S and DiT-S/2 were run once (`tests/data/golden_*.npz`).

Both are formulas, so that no weights have to be kept: ours and the public codes are filled with the same
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fcdm.models.dit import DiT
from fcdm.models.fcdm import FCDM
from fcdm.models.official_weights import from_official

DATA = Path(__file__).parent / "golden_values"


class GoldenInputs(NamedTuple):
    """What the public codes were run on."""

    x: Tensor  # (3, 4, 32, 32) float32
    t: Tensor  # (3,) int64: 0, 417, 999
    labels: Tensor  # (3,) int64: 0, 207 and the null class 1000
    data: Tensor  # (3, 4, 32, 32) float32: x0 of the training loss
    noise: Tensor  # (3, 4, 32, 32) float32: its noise


def golden_inputs() -> GoldenInputs:
    i = np.arange(3 * 4 * 32 * 32, dtype=np.float64)
    x = torch.from_numpy(np.sin(0.37 * i + 0.01 * (i % 97)).astype(np.float32)).reshape(3, 4, 32, 32)
    noise = torch.from_numpy(np.cos(0.53 * i + 0.02 * (i % 89)).astype(np.float32)).reshape(3, 4, 32, 32)
    return GoldenInputs(x, torch.tensor([0, 417, 999]), torch.tensor([0, 207, 1000]), 0.9 * x, noise)


def names_shapes(tsv: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a public state dict, in its order; tsv: a file name in `tests/data`."""
    lines = [line for line in (DATA / tsv).read_text().splitlines() if line and not line.startswith("#")]
    return [(name, tuple(map(int, shape.split("x")))) for name, shape in (line.split("\t")[:2] for line in lines)]


def golden_weights(entries: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """The state dict by the rule; entries are the public state dict's, in its order."""
    weights = {}
    for k, (name, shape) in enumerate(entries):
        if name == "pos_embed":
            weights[name] = sincos_2d(*shape[1:])
            continue
        count = math.prod(shape)
        if name.endswith(("gamma", "beta")) or "embedding_table" in name:
            amplitude = 0.5
        elif len(shape) == 1:
            amplitude = 0.05
        else:
            amplitude = 1.5 / math.sqrt(count / shape[0])
        i = np.arange(count, dtype=np.float64)
        values = amplitude * np.sin(0.7 * i + ((0.013 * i * i) % 6.283185307179586) + 1.3 * k)
        weights[name] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
    return weights


def sincos_2d(tokens: int, width: int) -> Tensor:
    """(1, tokens, width): sin and cos of the column, then of the row; width / 4 frequencies each."""
    side = math.isqrt(tokens)
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    token = np.arange(tokens)
    parts = []
    for coordinate in (token % side, token // side):
        angle = coordinate[:, None] * frequencies[None, :]
        parts += [np.sin(angle), np.cos(angle)]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))[None]


def load_official(model: FCDM | DiT, state_dict: Mapping[str, Tensor]) -> None:
    """Copies the public code's weights into `model`. Raises UserError as `from_official`; copies nothing then."""
    model.load_state_dict(from_official(model, state_dict), strict=False)  # DiT's position embedding is fixed
