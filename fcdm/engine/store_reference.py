"""A store of pixels as its own reference: features of the images that are trained on, and of those held out.

<store>/features/<extractor's id>.npz     made once, by any number of ranks, and kept at a stop; in the cache folder
                                          where the store cannot be written
                .<extractor's id>/        what a rank has measured so far; goes when the file is there
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.atomic import file_errors, write_atomic
from fcdm.engine.distributed import Ranks
from fcdm.engine.draw_and_measure import Arrays, draw_and_measure, of_all_ranks
from fcdm.engine.worker import Worker, in_batches
from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.reference import KEEP, Moments
from fcdm.features.sample_statistics import SampleStatistics
from fcdm.features.store_folder import kept_file
from fcdm.metrics.inception_score import shuffled
from fcdm.metrics.joined_states import joined, state_of

BATCH = 256
KEEP_TRAIN = 65_536
"""Training images whose features are kept: a copy is found only where what was copied is among them. 17 MB of a
classifier's, 270 MB of DINOv2's."""
ORDER_SEED = 20260309
"""Of the order in which images are measured: the first `KEEP` are those whose features are kept."""


class RealImages(Protocol):
    """What samples are compared with: a store of pixels, or a data set of the user's own."""

    @property
    def folder(self) -> Path: ...

    @property
    def checksum(self) -> str: ...

    @property
    def train_indices(self) -> NDArray[np.int64]: ...

    @property
    def heldout_indices(self) -> NDArray[np.int64]: ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images (n, C, S, S) at `indices` (n,)."""


@dataclass(frozen=True)
class RealFeatures:
    """Of real images: the moments of all, and features (n, d) of some, drawn from all alike."""

    count: int
    """Images that the moments are of."""
    pool: Moments
    spatial: Moments | None
    kept: NDArray[np.float32]
    """At most `KEEP`: what kernel distances, precision and recall are of."""
    many: NDArray[np.float32]
    """These and more, at most KEEP_TRAIN of those that are trained on: what copies are looked for among."""


@dataclass(frozen=True)
class StoreReference:
    """What samples of a model of the store are compared with."""

    train: RealFeatures
    heldout: RealFeatures | None
    """None: the store holds out fewer than two images."""


def open_store_reference(store: RealImages, extractor: Extractor, worker: Worker) -> StoreReference:
    """Of the store's images in the extractor's features, made now unless it was before. All ranks together.

    Safe while others make the same, here or on another machine. Raises Stopped, and UserError.
    """
    ranks = worker.ranks
    path = ranks.first_does(lambda: kept_file(store.folder, store.checksum, f"{extractor.id}.npz"))
    work = path.with_name(f".{extractor.id}")
    count = len(store.train_indices) + len(store.heldout_indices)
    if not path.exists() and ranks.is_main:
        worker.progress.note(
            f"features of {extractor.id}: {count:,} images of {store.folder} are measured once, and kept in {path}"
        )
    with worker.claiming([work], lambda: _is_made(path, store, extractor), wait=True) as worker_here:
        if worker_here is not None:
            measure = _RealMeasure(extractor, len(store.train_indices))
            order = _order(store)

            def images(first: int, last: int) -> Tensor:
                return torch.from_numpy(store.read(order[first:last])).to(ranks.device)

            partial = work / f"{ranks.share_name(BATCH)}.npz"
            draw_and_measure(images, in_batches(count, BATCH), measure, 0, partial, worker_here)
            made = [of_all_ranks(part, ranks) for part in measure.parts.values()]
            ranks.first_does(lambda: _write(path, store, extractor, *made))
            if ranks.is_main:
                shutil.rmtree(work, ignore_errors=True)
    found = read_by_all(path, ranks)
    train, heldout = (_real(found, name) for name in ("train", "heldout"))
    if train is None:
        raise UserError(f"{store.folder} has fewer than two images to train on: nothing can be compared with them")
    return StoreReference(train, heldout)


def read_by_all(path: Path, ranks: Ranks) -> dict[str, NDArray[Any]]:
    """Its arrays on all ranks; the first's where another does not see the file: a cache folder may be a node's own."""

    def read() -> dict[str, NDArray[Any]]:
        with file_errors(path, "reading"), np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return ranks.first_does(read) if ranks.any(not path.exists()) else read()


def _order(store: RealImages) -> NDArray[np.int64]:
    """The images that are trained on, shuffled, and then those that are held out."""
    parts = (store.train_indices, store.heldout_indices)
    return np.concatenate([part[shuffled(len(part), ORDER_SEED)] for part in parts])


def _write(
    path: Path, store: RealImages, extractor: Extractor, train: SampleStatistics, heldout: SampleStatistics
) -> None:
    arrays: dict[str, Any] = {"store": np.array(store.checksum), "extractor": np.array(extractor.id)}
    for name, statistics in (("train", train), ("heldout", heldout)):
        statistics.flush()
        arrays |= joined({name: statistics.state()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _is_made(path: Path, store: RealImages, extractor: Extractor) -> bool:
    """Whether the file is whole, of this store, and keeps as many features as are wanted; else it is made again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keeps_all = "train.keep" in arrays and int(arrays["train.keep"][0]) == KEEP_TRAIN
            return keeps_all and (str(arrays["store"]), str(arrays["extractor"])) == (store.checksum, extractor.id)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _real(arrays: Mapping[str, NDArray[Any]], name: str) -> RealFeatures | None:
    statistics = SampleStatistics.from_state(state_of(name, arrays))
    if statistics.count < 2:
        return None
    spatial, features = statistics.spatial, statistics.kept_features()
    return RealFeatures(
        statistics.count,
        (statistics.pool.mean, statistics.pool.covariance),
        (spatial.mean, spatial.covariance) if spatial is not None else None,
        features[:KEEP],
        features,
    )


class _RealMeasure:
    """One rank's part of the store's images."""

    save_every_s = 120.0

    def __init__(self, extractor: Extractor, train: int) -> None:
        """train: images numbered below that are of those that are trained on."""
        self.extractor, self.train = extractor, train
        self.parts = {
            name: SampleStatistics(extractor.dim, extractor.spatial_dim, keep=keep)
            for name, keep in (("train", KEEP_TRAIN), ("heldout", KEEP))
        }

    def update(self, images: Tensor, first: int) -> None:
        cut = min(max(0, self.train - first), len(images))
        for name, part, number in (("train", images[:cut], first), ("heldout", images[cut:], first + cut - self.train)):
            if len(part):
                self.parts[name].update(self.extractor.features(part), number)

    def state(self) -> dict[str, NDArray[Any]]:
        return joined({name: part.state() for name, part in self.parts.items()})

    def restore(self, state: Arrays) -> None:
        for name in self.parts:
            self.parts[name] = SampleStatistics.from_state(state_of(name, state))
