"""Float32 that is float32, whatever the training around it has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether CUDA's float32 products and convolutions keep 10 bits of a significand only, while the block runs."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 while the block runs: a metric must not move with the model's precision."""
    with tf32(False), torch.autocast(device.type, enabled=False):
        yield
