"""The random numbers of a GPU are those of the CPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from fcdm.randomness import integers, normal, uniform

pytestmark = pytest.mark.gpu
POSITIONS = torch.arange(256)


@pytest.mark.parametrize(("seed", "step"), [*itertools.product((0, 2**62 + 12345), (0, 400_000))])
def test_integers_are_equal_and_normal_numbers_nearly(gpu: torch.device, seed: int, step: int) -> None:
    there = POSITIONS.to(gpu)
    assert torch.equal(uniform(seed, 2, step, there, (64,)).cpu(), uniform(seed, 2, step, POSITIONS, (64,)))
    assert torch.equal(integers(seed, 1, step, there, 1000).cpu(), integers(seed, 1, step, POSITIONS, 1000))
    ours, theirs = normal(seed, 2, step, POSITIONS, (64,)), normal(seed, 2, step, there, (64,))
    torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-5, atol=1e-5)
