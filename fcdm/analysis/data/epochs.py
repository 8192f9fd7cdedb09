"""How often a run has shown each image that it is trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fcdm.data.image_counts import DIGITS_TRAIN, IMAGENET_TRAIN
from fcdm.data.manifest import PAPERS
from fcdm.formatting import three_digits

BUNDLED = "digits"
"""`data.name` of the digits that come with scikit-learn."""
ALIKE = 1e-6
"""Epochs for an image that differ by less, relative, are one number: a CSV has rounded them."""


def images_of_epoch(data: str, config: Mapping[str, str]) -> float:
    """How many images an epoch has; NaN: not known.

    `data.images` of a run's configuration (flat, as texts) says it. Runs of before there was that key say it by their
    `data`, as a CSV does: the bundled digits, and ImageNet of the papers.
    """
    told = config.get("data.images", "None")
    if told != "None":
        return float(told)
    if config.get("data.target", "None") != "None":
        return float("nan")
    if data == PAPERS:
        return float(IMAGENET_TRAIN)
    return float(DIGITS_TRAIN) if data == BUNDLED else float("nan")


def epochs_text(epochs: float) -> str:
    """`35.6`; `?` where it is not known."""
    return three_digits(epochs) if np.isfinite(epochs) else "?"


def epochs_each(table: pd.DataFrame, amount: str) -> float | None:
    """Epochs in one step (or image, by `amount`), where that is one number for all of these rows; else None.

    So it is of runs on the same data, and for steps of the same batch.
    """
    if "epochs" not in table or not len(table):
        return None
    each = (table["epochs"] / table[amount]).to_numpy(float)
    alike = np.isfinite(each).all() and float(each.max()) <= float(each.min()) * (1 + ALIKE)
    return float(np.median(each)) if alike else None
