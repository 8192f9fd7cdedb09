"""Metrics on a GPU are those of the CPU, whatever precision the training around them has switched on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcdm.metrics.float32 import tf32
from fcdm.metrics.precision_recall import precision_recall

pytestmark = pytest.mark.gpu


def test_precision_and_recall_are_the_cpus(gpu: torch.device) -> None:
    draw = np.random.default_rng(8)
    a, b = (np.abs(draw.normal(size=(count, 256))).astype(np.float32) for count in (3000, 2500))
    ours = precision_recall(a, b, block=512)
    with tf32(True):
        theirs = precision_recall(a, b, block=512, device=gpu)
    assert theirs.precision == pytest.approx(ours.precision, abs=1e-3)
    assert theirs.recall == pytest.approx(ours.recall, abs=1e-3)
