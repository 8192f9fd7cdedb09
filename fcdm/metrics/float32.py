"""Float32 that is float32, whatever the training around it has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 while the block runs: a metric must not move with the model's precision.

    TF32 keeps 10 bits of a significand, and cuDNN's convolutions use it unless told otherwise.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before
