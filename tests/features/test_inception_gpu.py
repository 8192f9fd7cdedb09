"""Inception's features on a GPU are those of the CPU, whatever the training around them has switched on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcdm.features import open_extractor
from fcdm.metrics.float32 import tf32
from tests.support.random_inception import close, random_images, random_weights

pytestmark = pytest.mark.gpu


def test_features_are_the_cpus(gpu: torch.device, tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    torch.save(random_weights(), path)
    images = random_images(2, 3, 64, 64)
    ours = open_extractor("inception", weights=path).features(images)
    with tf32(True), torch.autocast(gpu.type, torch.bfloat16):
        theirs = open_extractor("inception", gpu, path).features(images)
    for key in ("pool", "spatial", "probabilities"):
        assert getattr(theirs, key).dtype == torch.float32
        assert close(getattr(theirs, key).cpu(), getattr(ours, key)), key


def test_the_digits_features_are_the_cpus(gpu: torch.device) -> None:
    images = random_images(50, 1, 16, 16)
    for name in ("digits-cnn", "pixels"):
        with tf32(True):
            theirs = open_extractor(name, gpu)(images.to(gpu))
        assert close(theirs.cpu(), open_extractor(name)(images)), name
