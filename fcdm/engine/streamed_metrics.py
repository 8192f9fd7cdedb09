"""What is measured of samples: streamed batch by batch, saved and restored, merged over ranks.

The digits are evaluated by a small CNN's features and by their pixels, latents by Inception as the papers are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset, PixelDataset
from fcdm.data.user_data import UserDataset
from fcdm.engine.distributed import Ranks
from fcdm.engine.draw_and_measure import Arrays, Gathered, states_of_all
from fcdm.engine.reference_statistics import open_reference
from fcdm.engine.worker import Worker
from fcdm.features import Extractor, open_extractor
from fcdm.features.reference import Reference
from fcdm.features.sample_statistics import SampleStatistics
from fcdm.features.user_extractor import own_extractor
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance, resampling_floor
from fcdm.metrics.inception_score import shuffled
from fcdm.metrics.rounding import to_uint8
from fcdm.runs.protocol import reference_of


class Measure(Gathered, Protocol):
    """One rank's samples as numbers, and what all ranks' come to."""

    def result(self, ranks: Ranks, note: Callable[[str], None]) -> tuple[dict[str, float], dict[str, float]]:
        """(metrics, what real images score) of all ranks' samples; the same on all of them."""


def open_measure(config: Config, data: Dataset | None, worker: Worker) -> Measure:
    """What the configuration's `evaluation.features` asks for; `data` is for the digits only. Raises UserError where a
    file is missing. Statistics of a reference of images are made by all ranks, unless they are there."""
    device = worker.ranks.device
    if config.evaluation.features == "inception":
        places = None
        if config.evaluation.labels == "balanced":
            places = shuffled(config.evaluation.samples, config.evaluation.seed)
        return InceptionMeasure(open_reference(reference_of(config), config.resolution, worker), device, places)
    assert isinstance(data, PixelDataset | UserDataset)
    return DigitsMeasure(config, data, device)


class DigitsMeasure:
    """Fréchet distances to the training and the held-out digits, in CNN features and in pixels, with their floor."""

    save_every_s = 20.0

    def __init__(self, config: Config, data: PixelDataset | UserDataset, device: torch.device) -> None:
        self.data, self.samples = data, config.evaluation.samples
        self.spaces: dict[str, Extractor] = {
            "fid": own_extractor(config, device) or open_extractor(config.evaluation.features, device)
        }
        if isinstance(data, PixelDataset) and config.evaluation.features != "pixels":
            self.spaces["fid_pixels"] = open_extractor("pixels", device)
        self.statistics = {name: FeatureStatistics(extractor.dim) for name, extractor in self.spaces.items()}

    def update(self, images: Tensor, first: int) -> None:
        for name, extractor in self.spaces.items():
            self.statistics[name].update(extractor(images))

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return {
            f"{name}.{key}": value
            for name, statistics in self.statistics.items()
            for key, value in statistics.state().items()
        }

    def restore(self, state: Arrays) -> None:
        self.statistics = {
            name: FeatureStatistics.from_state({key: state[f"{name}.{key}"] for key in ("count", "mean", "scatter")})
            for name in self.spaces
        }

    def result(self, ranks: Ranks, note: Callable[[str], None]) -> tuple[dict[str, float], dict[str, float]]:
        metrics: dict[str, float] = {}
        floor: dict[str, float] = {}
        for name, extractor in self.spaces.items():
            generated = self.statistics[name]
            if ranks.world_size > 1:
                generated = FeatureStatistics(extractor.dim)
                for state in states_of_all(self.statistics[name].state(), ranks):
                    generated.merge(FeatureStatistics.from_state(state))
            train = _features(extractor, self.data.images)
            reference = _statistics(train)
            heldout = _statistics(_features(extractor, self.data.heldout_images))
            metrics[name] = frechet_distance(generated, reference)
            metrics[f"{name}_heldout"] = frechet_distance(generated, heldout)
            floor[name], floor[f"{name}_sd"] = resampling_floor(train, self.samples)
            floor[f"{name}_heldout_against_train"] = frechet_distance(heldout, reference)
        return metrics, floor


class InceptionMeasure:
    """FID, sFID, Inception Score, precision and recall against a reference file (ADM's definitions)."""

    save_every_s = 600.0  # up to 510 MB

    def __init__(self, reference: Reference, device: torch.device, places: np.ndarray[Any, Any] | None = None) -> None:
        """places: where each sample stands among the Inception Score's splits; None: in order."""
        self.device, self.reference, self.places = device, reference, places
        self.extractor = open_extractor("inception", device)
        self.reference.check_extractor(self.extractor)
        self.statistics = SampleStatistics.for_extractor(self.extractor)
        self.statistics.places = places
        self.warnings: list[str] = []

    def update(self, images: Tensor, first: int) -> None:
        self.statistics.update(self.extractor.features(images), first)

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return self.statistics.state()

    def restore(self, state: Arrays) -> None:
        self.statistics = SampleStatistics.from_state(state)
        self.statistics.places = self.places

    def result(self, ranks: Ranks, note: Callable[[str], None]) -> tuple[dict[str, float], dict[str, float]]:
        if ranks.is_main:  # else every rank would make them
            self.reference.features(self.extractor)
        ranks.barrier()
        merged = self.statistics
        if ranks.world_size > 1:
            merged = SampleStatistics.for_extractor(self.extractor)
            for state in states_of_all(self.statistics.state(), ranks):
                merged.merge(SampleStatistics.from_state(state))
        self.warnings = merged.warnings()
        if ranks.is_main:
            for warning in self.warnings:
                note(warning)
        return merged.metrics(self.reference, self.reference.features(self.extractor), self.device), {}


def _features(extractor: Extractor, images: Tensor) -> np.ndarray[Any, Any]:
    """Features (n, d) of real images in [-1, 1], rounded to bytes like the generated ones."""
    return extractor(to_uint8(images)).cpu().numpy()


def _statistics(features: np.ndarray[Any, Any]) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics
