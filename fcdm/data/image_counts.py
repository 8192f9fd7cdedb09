"""How many images there are to be trained on, and held out, without reading one of them. Torch-free."""

from __future__ import annotations

from pathlib import Path

from fcdm.config.schema import DataConfig
from fcdm.data.manifest import HELDOUT, PAPERS, read_manifest

DIGITS_TRAIN, DIGITS_HELDOUT = 1438, 359
"""Of the digits' split (`fcdm.data.digits`)."""
IMAGENET_TRAIN = 1_281_167
"""ILSVRC 2012's training set, for plans where no store of it is here."""
MOST_EPOCHS = 10
"""Beyond which a budget is no longer one of fresh data, as laws of scaling take it to be."""


def trained_images(data: DataConfig) -> int | None:
    """How many images an epoch has; None: not known, of a store that is not here, or of a user's own data set (which is
    tried by `fcdm.runs.trials`).

    Raises UserError for what is no store.
    """
    if data.target is not None:
        return None
    if data.path is None:
        return DIGITS_TRAIN
    folder = Path(data.path)
    if not folder.exists():
        return IMAGENET_TRAIN if data.name == PAPERS else None
    manifest, held = read_manifest(folder), heldout_images(data)
    return None if held is None else manifest.images - manifest.aside - held


def heldout_images(data: DataConfig) -> int | None:
    """How many images are held out; None as above."""
    if data.target is not None:
        return None
    if data.path is None:
        return DIGITS_HELDOUT
    import numpy as np  # not for who composes only

    try:
        return int(np.load(Path(data.path) / HELDOUT, allow_pickle=False).sum())
    except (OSError, ValueError):
        return None
