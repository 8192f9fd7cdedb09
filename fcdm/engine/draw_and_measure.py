"""A share of many images, each batch measured as it comes: what was measured is kept at a stop and every so often.

Several measures may look at the same images. Each keeps what it has in a file of its own, with the number of batches
that it has seen: after a kill they may differ. Then images are drawn again from where the one furthest behind is, and
the others leave out what they have.
"""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fcdm.atomic import write_atomic
from fcdm.engine.distributed import Ranks
from fcdm.engine.image_grid import GRID
from fcdm.engine.stop import Interrupted, Stopped
from fcdm.engine.worker import Worker
from fcdm.features.sample_statistics import SampleStatistics

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class Gathered(Protocol):
    """One rank's images as numbers."""

    save_every_s: float
    """How often it is worth while to save `state`, whose size differs."""

    def update(self, images: Tensor, first: int) -> None:
        """Add the images numbered `first` and up: (n, C, side, side) uint8."""

    def state(self) -> dict[str, np.ndarray[Any, Any]]: ...

    def restore(self, state: Arrays) -> None: ...


def draw_and_measure(
    images: Callable[[int, int], Tensor],
    batches: list[tuple[int, int]],
    measure: Gathered,
    step: int,
    partial: Path,
    worker: Worker,
) -> Drawn:
    """`draw_for_all` of one measure, whose file is `partial`."""
    (drawn,) = draw_for_all(images, batches, {partial: measure}, step, worker)
    return drawn


def draw_for_all(
    images: Callable[[int, int], Tensor],
    batches: list[tuple[int, int]],
    measures: Mapping[Path, Gathered],
    step: int,
    worker: Worker,
) -> list[Drawn]:
    """This rank's share of the batches, from where each measure's file left off. Raises Stopped, with all in the files.

    images: images(from, to) -> the samples so numbered, (n, C, side, side) uint8; asked for in ascending order, once
    for all measures. A batch in which it raises Interrupted is dropped. measures: each by its file.
    """
    drawn = [Drawn(measure, partial) for partial, measure in measures.items()]
    samples, share = batches[-1][1], worker.ranks.world_size * batches[0][1]
    save_every_s = max(one.measure.save_every_s for one in drawn)  # all together: the one behind draws for all

    def tell() -> None:
        worker.progress.sampling(step, min(samples, min(one.batches for one in drawn) * share), samples)

    saved_at = time.monotonic()
    tell()
    try:
        for turn, batch in enumerate(worker.rounds(batches)):
            behind = [one for one in drawn if one.batches <= turn]
            if not behind or batch is None:
                continue
            try:
                made = images(*batch)
            except Interrupted:
                continue  # all ranks stop before the next
            for one in behind:
                one.add(made, batch[0])
            tell()
            if time.monotonic() - saved_at > save_every_s:
                save_all(drawn)
                saved_at = time.monotonic()
    except Stopped:
        save_all(drawn)
        raise
    return drawn


def save_all(drawn: Iterable[Drawn]) -> None:
    for one in drawn:
        one.save()


class Drawn:
    """What this rank has sampled so far: what is measured of it, and the first images."""

    def __init__(self, measure: Gathered, partial: Path) -> None:
        self.measure, self.partial = measure, partial
        self.batches = 0
        self.grid: np.ndarray = np.empty((0,), dtype=np.uint8)
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self._restore()  # else it is drawn again

    def add(self, images: Tensor, first: int) -> None:
        """Images (n, C, side, side) uint8, the samples numbered `first` and up."""
        self.measure.update(images, first)
        if len(self.grid) < GRID:
            host = images.cpu().numpy()
            joined = np.concatenate([self.grid, host]) if len(self.grid) else host
            self.grid = joined[:GRID]
        self.batches += 1

    def save(self) -> None:
        self.partial.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"batches": np.array(self.batches), "grid": self.grid, **self.measure.state()}
        np.savez(buffer, **arrays)
        write_atomic(self.partial, buffer.getvalue())

    def _restore(self) -> None:
        with np.load(self.partial, allow_pickle=False) as arrays:
            batches, grid = int(arrays["batches"]), arrays["grid"]
            self.measure.restore({key: arrays[key] for key in arrays if key not in ("batches", "grid")})
            self.batches, self.grid = batches, grid


def of_all_ranks(mine: SampleStatistics, ranks: Ranks) -> SampleStatistics:
    """The statistics of all ranks' samples, the same on all of them."""
    if ranks.world_size == 1:
        return mine
    merged = mine.none_yet()
    for state in states_of_all(mine.state(), ranks):
        merged.merge(SampleStatistics.from_state(state))
    return merged


def states_of_all(state: dict[str, np.ndarray[Any, Any]], ranks: Ranks) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Every rank's state in rank order, the same on all of them; their arrays may differ in shape."""
    found = ranks.of_all({key: (value.shape, value.dtype.str) for key, value in state.items()})
    states = []
    for rank, theirs in enumerate(found):
        arrays = {}
        for key, (shape, dtype) in theirs.items():
            mine = state[key] if rank == ranks.rank else np.empty(shape, dtype)
            tensor = torch.from_numpy(np.ascontiguousarray(mine))
            dist.broadcast(tensor, rank)
            arrays[key] = tensor.numpy()
        states.append(arrays)
    return states
