"""What a model is given besides labels (`data.conditions`): in training, on held-out images, and for samples.

Sample i is conditioned on one held-out image, a function of (evaluation.seed, i) alone: on its conditions, and on its
label with them. Dropping labels, and guidance by no label, leave the conditions as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset, open_dataset
from fcdm.data.user_data import UserDataset
from fcdm.randomness import Purpose, integers

Conditions = dict[str, Tensor]
"""Name -> (n, ...) float32; empty where the data has none."""


def of_batch(data: Dataset, fetched: Any) -> Conditions:
    """Of the training images of a batch, as `Dataset.fetch` gave it."""
    return data.conditions(fetched) if isinstance(data, UserDataset) else {}


def of_images(data: Dataset, items: np.ndarray, heldout: bool) -> Conditions:
    """Of the images `items` (n,) that are held out, or trained on, as `Dataset.unaltered` gives them."""
    if not isinstance(data, UserDataset):
        return {}
    chosen = torch.from_numpy(items).to(data.device)
    return data.heldout_conditions(chosen) if heldout else data.conditions(chosen)


class OfSamples:
    """The held-out images that samples are conditioned on."""

    def __init__(self, config: Config, device: torch.device, label: int | None) -> None:
        """label: all samples are of this class; then of its images, where any is held out."""
        data = open_dataset(config, device)
        assert isinstance(data, UserDataset)
        self.data, self.evaluation, self.label = data, config.evaluation, label
        self.rows = torch.arange(data.heldout, device=device)
        if label is not None:
            of_class = self.rows[data.held.labels == label]
            self.rows = of_class if len(of_class) else self.rows

    def _images(self, numbers: Tensor) -> Tensor:
        """Which held-out images samples `numbers` (n,) are conditioned on, (n,) int64."""
        count = len(self.rows)
        if self.evaluation.labels == "balanced":
            return self.rows[numbers % count]
        return self.rows[integers(self.evaluation.seed, Purpose.SAMPLE_CONDITION, 0, numbers, count)]

    def labels(self, numbers: Tensor) -> Tensor:
        return self.data.held.labels[self._images(numbers)]

    def conditions(self, numbers: Tensor) -> Conditions:
        return self.data.heldout_conditions(self._images(numbers))


def of_samples(config: Config, device: torch.device, label: int | None) -> OfSamples | None:
    """None where the data has no conditions. Raises UserError where its data set cannot be made."""
    return OfSamples(config, device, label) if config.data.conditions else None
