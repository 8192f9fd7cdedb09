"""The test of copying: against its definition, and what it says of copies, of fresh images and of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.metrics.data_copying import data_copying

RNG = np.random.default_rng(0)


def by_definition(samples: torch.Tensor, heldout: torch.Tensor, train: torch.Tensor) -> float:
    """All pairs, one by one."""
    near = [torch.cdist(rows.double(), train.double()).amin(dim=1) for rows in (samples, heldout)]
    mine, fresh = near[0][:, None], near[1][None]
    return float(((mine < fresh).double() + 0.5 * (mine == fresh)).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_the_definition_in_any_blocks(m: int, n: int, k: int, block: int, seed: int) -> None:
    """On a grid of whole numbers, whose distances are exact and tie often."""
    generator = torch.Generator().manual_seed(seed)
    sets = [torch.randint(0, 3, (count, 2), generator=generator).float() for count in (m, n, k)]
    assert data_copying(*sets, block=block) == pytest.approx(by_definition(*sets))


def test_fresh_images_are_no_copies() -> None:
    train, samples, heldout = (RNG.standard_normal((count, 8)).astype(np.float32) for count in (3000, 1000, 1000))
    spread = (1 / 12 * (1 / 1000 + 1 / 1000)) ** 0.5  # of a Mann-Whitney statistic over all pairs
    assert data_copying(samples, heldout, train) == pytest.approx(0.5, abs=4 * spread)


def test_copies_and_images_that_lie_off() -> None:
    train, heldout = (RNG.standard_normal((count, 8)).astype(np.float32) for count in (3000, 1000))
    assert data_copying(train[:500], heldout, train) == 1.0
    near = train[:500] + 1e-2 * RNG.standard_normal((500, 8)).astype(np.float32)
    assert data_copying(near, heldout, train) > 0.99
    assert data_copying(heldout + 3, heldout, train) < 0.01
    half = np.concatenate([train[:500], RNG.standard_normal((500, 8)).astype(np.float32)])
    assert data_copying(half, heldout, train) == pytest.approx(0.75, abs=0.05)


def test_progress_is_told_block_by_block() -> None:
    told: list[tuple[int, int]] = []
    rows = torch.zeros(5, 2)
    data_copying(rows, rows, rows, block=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 8) for number in range(1, 9)]
