"""Copies of a GPU's tensors in host memory: of the moment at which they are asked for."""

from __future__ import annotations

import pytest
import torch

from fcdm.engine.host_copy import HostCopy

pytestmark = pytest.mark.gpu


def test_a_copy_of_a_gpus_tensors_is_of_its_place_in_the_queue(cuda: torch.device) -> None:
    """Asked for while the GPU is busy, and the tensors are overwritten before it gets there."""
    host = HostCopy(cuda)
    weight = torch.zeros(64, 8, 3, 3, device=cuda).to(memory_format=torch.channels_last)
    busy = torch.randn(4096, 4096, device=cuda)
    for value in (1.0, 2.0):
        for _ in range(50):
            busy = (busy @ busy).clamp(-1, 1)
        weight.fill_(value)
        copy = host.of({"model": {"w": weight, "scalar": weight.sum()}})["model"]
        weight.zero_()
        host.wait()
        assert copy["w"].is_pinned()
        assert bool((copy["w"] == value).all())
        assert copy["scalar"] == value * weight.numel()
