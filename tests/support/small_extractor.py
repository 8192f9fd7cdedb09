"""An extractor of a few features in Inception's place, where images are many and what is tested is not the network."""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.features import Extractor, Features

SIDE, DIM, SPATIAL, CLASSES = 4, 6, 5, 3


def small_features(images: Tensor) -> Features:
    """Fixed random projections of the pixels, in the place of Inception's three outputs."""
    x = images.expand(-1, 3, -1, -1).double().flatten(1) / 255  # grey is repeated, as for Inception
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(x.shape[1], DIM + SPATIAL + CLASSES, generator=generator, dtype=torch.float64)
    pool, spatial, logits = (x @ weights).split([DIM, SPATIAL, CLASSES], dim=1)
    return Features(pool.float(), spatial.float(), logits.softmax(1).float())


SMALL = Extractor("small@1", DIM, lambda x: small_features(x).pool, SPATIAL, CLASSES, small_features)
