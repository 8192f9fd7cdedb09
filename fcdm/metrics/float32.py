"""Float32 that is float32, whatever the training around it has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether CUDA's float32 products and convolutions keep 10 bits of a significand only, while the block runs.

    torch 2.9 brought new flags beside the old ones. The new ones rule, and reading an old one that they contradict
    raises, in torch's own compiler too; so both are set, first the old ones, whose setters write the new ones too.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    old: list[tuple[Any, str]] = [(cuda, "allow_tf32"), (cudnn, "allow_tf32")]
    new: list[tuple[Any, str]] = []
    if hasattr(cudnn, "conv"):
        new = [(place, "fp32_precision") for place in (cuda, cudnn.conv, cudnn.rnn)]
    before = []
    for place, name in old + new:
        with contextlib.suppress(RuntimeError):  # an old flag that is contradicted: the new ones restore what it was
            before.append((place, name, getattr(place, name)))
    for place, name in old:
        setattr(place, name, allowed)
    for place, name in new:
        setattr(place, name, "tf32" if allowed else "ieee")
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 while the block runs: a metric must not move with the model's precision."""
    with tf32(False), torch.autocast(device.type, enabled=False):
        yield
