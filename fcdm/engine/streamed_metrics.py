"""What is measured of samples: streamed batch by batch, saved and restored, merged over ranks.

The digits are evaluated by a small CNN's features and by their pixels, by an extractor of the user's own as a store of
pixels is: against its own images. All else is evaluated against a reference, as the papers are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import HELDOUT, Config
from fcdm.data.dataset import Dataset, PixelDataset, PixelStoreDataset
from fcdm.data.pixel_store import PixelStore
from fcdm.data.user_store import MemoryStore, UserStore
from fcdm.engine.distributed import Ranks
from fcdm.engine.draw_and_measure import Arrays, Gathered, of_all_ranks, states_of_all
from fcdm.engine.reference_statistics import open_reference
from fcdm.engine.stop import Interrupted
from fcdm.engine.store_reference import RealImages, StoreReference, open_store_reference
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features import Extractor, open_extractor
from fcdm.features.reference import Reference
from fcdm.features.sample_statistics import PER_FEATURE, SampleStatistics, enough_for_frechet
from fcdm.features.space import INCEPTION, Space, asked_space, compared_with
from fcdm.metrics.data_copying import data_copying
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_moments, resampling_floor
from fcdm.metrics.inception_score import shuffled
from fcdm.metrics.joined_states import joined, state_of
from fcdm.metrics.kernel_distance import kernel_distance
from fcdm.metrics.least_images import LEAST
from fcdm.metrics.rounding import to_uint8
from fcdm.runs.protocol import reference_of

Looked = Callable[[int, int], None]
"""Called with (blocks done, blocks in all)."""


def _nothing(done: int, blocks: int) -> None: ...


class Measure(Gathered, Protocol):
    """One rank's samples as numbers, and what all ranks' come to."""

    def result(
        self, ranks: Ranks, note: Callable[[str], None], looked: Looked = _nothing
    ) -> tuple[dict[str, float], dict[str, float]]:
        """(metrics, what real images score) of all ranks' samples; the same on all of them.

        looked: called between blocks of distances. It may raise, on some ranks alone: the last that they do together
        comes before.
        """


def result_of(measure: Measure, worker: Worker) -> tuple[dict[str, float], dict[str, float]]:
    """Its `result`, with the heartbeat going on; all ranks together. Raises Stopped: a signal came in between."""

    def looked(done: int, blocks: int) -> None:
        worker.interrupt()
        worker.beat()

    found = None
    with contextlib.suppress(Interrupted):
        found = measure.result(worker.ranks, worker.progress.note, looked)
    if worker.ranks.highest(int(found is None))[0]:
        worker.stop_together()
    assert found is not None
    return found


def open_measure(config: Config, data: Dataset | None, worker: Worker) -> Measure:
    """What the configuration's `evaluation.features` asks for; `data` as far as they are open. Raises UserError where
    a file is missing. Statistics of real images are made by all ranks, unless they are there."""
    device = worker.ranks.device
    space, kind = asked_space(config), compared_with(config)
    if kind == "memory" and space.own is None:
        assert isinstance(data, PixelDataset)
        return DigitsMeasure(config, data, device)
    places = None
    if config.evaluation.labels == "balanced":
        places = shuffled(config.evaluation.samples, config.evaluation.seed)
    if kind in ("store", "memory"):
        store = worker.ranks.all_or_none(lambda: _store_of(config, data))
        return StoreMeasure(store, worker, space, places, config.evaluation.headline)
    reference = open_reference(reference_of(config), config.resolution, worker, space)
    return ReferenceMeasure(reference, device, space, places)


def _store_of(config: Config, data: Dataset | None) -> RealImages:
    if config.data.target is not None:
        return UserStore(config)
    if isinstance(data, PixelStoreDataset):
        return data.store
    if isinstance(data, PixelDataset):
        return MemoryStore(data.train.images, data.held.images)
    assert config.data.path is not None
    return PixelStore(config.data.path, resolution=config.resolution, channels=config.data.channels)


class DigitsMeasure:
    """Fréchet distances to the training and the held-out digits, in CNN features and in pixels, with their floor."""

    save_every_s = 20.0

    def __init__(self, config: Config, data: PixelDataset, device: torch.device) -> None:
        self.data, self.samples = data, config.evaluation.samples
        self.spaces: dict[str, Extractor] = {"fid": asked_space(config).open(device)}
        if config.evaluation.features != "pixels":
            self.spaces["fid_pixels"] = open_extractor("pixels", device)
        self.statistics = {name: FeatureStatistics(extractor.dim) for name, extractor in self.spaces.items()}

    def update(self, images: Tensor, first: int) -> None:
        for name, extractor in self.spaces.items():
            self.statistics[name].update(extractor(images))

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return joined({name: statistics.state() for name, statistics in self.statistics.items()})

    def restore(self, state: Arrays) -> None:
        self.statistics = {name: FeatureStatistics.from_state(state_of(name, state)) for name in self.spaces}

    def result(
        self, ranks: Ranks, note: Callable[[str], None], looked: Looked = _nothing
    ) -> tuple[dict[str, float], dict[str, float]]:
        metrics: dict[str, float] = {}
        floor: dict[str, float] = {}
        for name, extractor in self.spaces.items():
            generated = self.statistics[name]
            if ranks.world_size > 1:
                generated = FeatureStatistics(extractor.dim)
                for state in states_of_all(self.statistics[name].state(), ranks):
                    generated.merge(FeatureStatistics.from_state(state))
            train = _features(extractor, self.data.train.images)
            reference = _statistics(train)
            heldout = _statistics(_features(extractor, self.data.held.images))
            metrics[name] = frechet_distance(generated, reference)
            metrics[f"{name}_heldout"] = frechet_distance(generated, heldout)
            floor[name], floor[f"{name}_sd"] = resampling_floor(train, self.samples)
            floor[f"{name}_heldout_against_train"] = frechet_distance(heldout, reference)
        return metrics, floor


class ReferenceMeasure:
    """FID, kernel distance, precision and recall against a reference; of Inception sFID and its score (ADM's
    definitions)."""

    save_every_s = 600.0  # up to 510 MB

    def __init__(
        self,
        reference: Reference,
        device: torch.device,
        space: Space = INCEPTION,
        places: np.ndarray[Any, Any] | None = None,
    ) -> None:
        """places: where each sample stands among the Inception Score's splits; None: in order."""
        self.device, self.reference, self.places = device, reference, places
        self.extractor = space.open(device)
        self.reference.check_extractor(self.extractor)
        self.statistics = SampleStatistics.for_extractor(self.extractor)
        self.statistics.places = places
        self.warnings: list[str] = []

    def update(self, images: Tensor, first: int) -> None:
        # The reference's images are RGB.
        self.statistics.update(self.extractor.features(images.expand(-1, 3, -1, -1)), first)

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return self.statistics.state()

    def restore(self, state: Arrays) -> None:
        self.statistics = SampleStatistics.from_state(state)
        self.statistics.places = self.places

    def result(
        self, ranks: Ranks, note: Callable[[str], None], looked: Looked = _nothing
    ) -> tuple[dict[str, float], dict[str, float]]:
        if ranks.is_main:  # else every rank would make them
            self.reference.features(self.extractor)
        ranks.barrier()
        merged = of_all_ranks(self.statistics, ranks)
        real = self.reference.features(self.extractor)
        if self.extractor.is_inception:  # published: told of however few images
            frechet = True
            self.warnings = merged.warnings()
        else:
            frechet, self.warnings = enough(merged, self.reference.count, self.extractor.dim)
        if ranks.is_main:
            for warning in self.warnings:
                note(warning)
        metrics = merged.metrics(self.reference, real, self.device, looked, frechet)
        floor: dict[str, float] = {}
        if frechet and real is not None and not self.extractor.is_inception:
            floor["fid"], floor["fid_sd"] = floor_of(real, merged.count)
        return metrics, floor


class StoreMeasure:
    """Distances to the images of a store of pixels, those that are trained on and those held out, with their floor, and
    whether samples are copies.

    Of an extractor with a `second` all is measured twice, and the second's metrics end in `_second`.
    """

    save_every_s = 60.0

    def __init__(
        self,
        store: RealImages,
        worker: Worker,
        space: Space,
        places: np.ndarray[Any, Any] | None = None,
        headline: str = "train",
    ) -> None:
        """places: where each sample stands among the Inception Score's splits; None: in order. headline: as of
        `evaluation`. Raises UserError where it is `heldout` and too few images are."""
        self.device, self.places, self.headline = worker.ranks.device, places, headline
        first = worker.ranks.all_or_none(lambda: space.open(self.device))
        self.extractors = {"": first} | ({"_second": first.second} if first.second else {})
        self.references = {key: open_store_reference(store, one, worker) for key, one in self.extractors.items()}
        held = self.references[""].heldout
        if headline == HELDOUT and (held is None or len(held.kept) < LEAST):
            raise UserError(
                f"evaluation.headline=heldout: {store.folder} holds out fewer than {LEAST} images: leave it away"
            )
        self.statistics = {key: SampleStatistics.for_extractor(one) for key, one in self.extractors.items()}
        for statistics in self.statistics.values():
            statistics.places = places

    def update(self, images: Tensor, first: int) -> None:
        for key, extractor in self.extractors.items():
            self.statistics[key].update(extractor.features(images), first)

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return joined({key: one.state() for key, one in self.statistics.items()})

    def restore(self, state: Arrays) -> None:
        for key in self.statistics:
            self.statistics[key] = SampleStatistics.from_state(state_of(key, state))
            self.statistics[key].places = self.places

    def result(
        self, ranks: Ranks, note: Callable[[str], None], looked: Looked = _nothing
    ) -> tuple[dict[str, float], dict[str, float]]:
        metrics: dict[str, float] = {}
        floor: dict[str, float] = {}
        samples = {key: of_all_ranks(mine, ranks) for key, mine in self.statistics.items()}
        for key, extractor in self.extractors.items():
            found, real, notes = _against_store(
                samples[key], self.references[key], extractor.dim, self.device, looked, self.headline
            )
            metrics |= {f"{name}{key}": value for name, value in found.items()}
            floor |= {f"{name}{key}": value for name, value in real.items()}
            if ranks.is_main and not key:
                for told in notes:
                    note(told)
        return metrics, floor


def _against_store(
    samples: SampleStatistics,
    reference: StoreReference,
    dim: int,
    device: torch.device,
    looked: Looked,
    headline: str,
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Metrics, what real images score, and what a reader should know."""
    train, heldout = reference.train, reference.heldout
    to, beside, other = train, heldout, "heldout"
    if headline == HELDOUT and heldout is not None:
        to, beside, other = heldout, train, "train"
    frechet, notes = enough(samples, to.count, dim)
    metrics = samples.metrics(to, to.kept, device, looked, frechet)
    floor: dict[str, float] = {}
    if frechet:
        floor["fid"], floor["fid_sd"] = floor_of(to.kept, samples.count)
    if heldout is None or beside is None or len(heldout.kept) < LEAST:
        return metrics, floor, notes
    mine = samples.kept_features()
    apart = kernel_distance(mine, beside.kept, device=device, progress=looked)
    metrics |= {f"kid_{other}": apart.value, f"kid_{other}_se": apart.standard_error}
    # As many held-out images as samples say as much as all would; which ones is a draw, once for all.
    metrics["data_copying"] = data_copying(mine, heldout.kept[: len(mine)], train.many, device=device, progress=looked)
    real = kernel_distance(heldout.kept, train.kept, device=device, progress=looked)
    floor |= {"kid_heldout_against_train": real.value, "kid_heldout_against_train_se": real.standard_error}
    if frechet and enough_for_frechet(beside.count, dim):
        metrics[f"fid_{other}"] = samples.distance_to(beside.pool)
        floor["fid_heldout_against_train"] = frechet_distance_of_moments(*heldout.pool, *train.pool)
    return metrics, floor, notes


def enough(samples: SampleStatistics, real: int | None, dim: int) -> tuple[bool, list[str]]:
    """Whether a Fréchet distance is told, and what a reader should know. real: how many images it would be to."""
    few = min(samples.count, samples.count if real is None else real)
    kept = samples.warnings_of_kept()
    if enough_for_frechet(few, dim):
        return True, kept
    why = (
        f"{few:,} images for {dim:,} features: a Fréchet distance wants {PER_FEATURE} for each, so that the kernel "
        "distance is what is told"
    )
    return False, [why, *kept]


def floor_of(real: np.ndarray[Any, Any], samples: int) -> tuple[float, float]:
    """`resampling_floor`, of fewer draws where each takes seconds."""
    return resampling_floor(real, samples, draws=10 if real.shape[1] <= 256 else 3)


def _features(extractor: Extractor, images: Tensor) -> np.ndarray[Any, Any]:
    """Features (n, d) of real images in [-1, 1], rounded to bytes like the generated ones."""
    return extractor(to_uint8(images)).cpu().numpy()


def _statistics(features: np.ndarray[Any, Any]) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics
