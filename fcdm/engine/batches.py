"""One training batch with all its randomness, a pure function of (seed, step, place in the global batch)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.diffusion.objective import Objective
from fcdm.engine.distributed import work_for
from fcdm.engine.model_conditions import Conditions, of_batch
from fcdm.randomness import Asked, Draws, Normal, Purpose, Uniform


@dataclass(frozen=True)
class Batch:
    """This rank's share of one step's global batch. n images."""

    x0: Tensor
    """(n, C, side, side) float32."""
    labels: Tensor
    """(n,) or (n, K) int64, dropped ones replaced by the null class."""
    t: Tensor
    """(n,) times, as the objective draws them."""
    noise: Tensor
    """Like x0."""
    conditions: Conditions = field(default_factory=dict)
    """What the model is given besides: name -> (n, ...)."""

    def __len__(self) -> int:
        return len(self.x0)

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` images."""
        parts = zip(*(torch.split(x, size) for x in (self.x0, self.labels, self.t, self.noise)), strict=True)
        conditions = {name: torch.split(tensor, size) for name, tensor in self.conditions.items()}
        return [
            Batch(x0, labels, t, noise, {name: split[number] for name, split in conditions.items()})
            for number, (x0, labels, t, noise) in enumerate(parts)
        ]


class BatchSource:
    """Draws the share [start, start + count) of any step's global batch: no state, so a resume needs none.

    Where data is read from files, the next step's is fetched in a thread while this step is trained on; as a context
    manager, it ends that thread. Data in memory has none.
    """

    def __init__(
        self, config: Config, data: Dataset, objective: Objective, label_embedders: int, start: int, count: int
    ) -> None:
        self.config, self.data, self.objective = config, data, objective
        self.columns = label_embedders if config.label_drop.mode == "independent" else 1
        self.order = DataOrder(len(data), config.seed)
        self.start, self.count = start, count
        side = config.resolution // config.data.downsample
        asked: list[Asked] = [
            Normal(Purpose.NOISE, (config.data.channels, side, side)),
            objective.times,
            Uniform(Purpose.LABEL_DROP, (self.columns,)),
        ]
        self._draws = self._of_places(data.device, [*asked, *data.device_draws])
        # What the CPU draws has places on the CPU from the start: to fetch them would wait for the device.
        self._host_draws = self._of_places(torch.device("cpu"), data.host_draws) if data.host_draws else None
        self._thread: ThreadPoolExecutor | None = None
        if data.reads_files:
            self._thread = ThreadPoolExecutor(1, "next-batch", work_for, (data.device,))
        self._ahead: tuple[int, Future[Any]] | None = None
        self.waited_s: float | None = 0.0 if data.reads_files else None
        """Seconds that `draw` has waited for files; None for data in memory."""

    def __enter__(self) -> BatchSource:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread, which at most finishes the batch in hand."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def draw(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0. Raises what the data raises, whichever thread met it."""
        fetched = self._fetched(step)
        noise, t, drop, *rest = self._draws(step)
        x0, labels = self.data.finish(fetched, rest)
        dropped = drop < self.config.label_drop.probability
        labels = torch.where(dropped, self.config.data.classes, labels[:, None].expand(-1, self.columns))
        labels = labels[:, 0] if self.columns == 1 else labels
        return Batch(x0, labels, t, noise, of_batch(self.data, fetched))

    def _of_places(self, device: torch.device, asked: Sequence[Asked]) -> Draws:
        places = torch.arange(self.start, self.start + self.count, device=device)
        return Draws(self.config.seed, places, *asked)

    def _fetched(self, step: int) -> Any:
        """What `fetch` says of the step; in steps taken in order, fetched while the step before was trained on."""
        if self._thread is None:
            return self._fetch(step)
        ahead, self._ahead = self._ahead, None
        # Everything is fetched in the thread, for `order` keeps its last epoch.
        future = ahead[1] if ahead and ahead[0] == step else self._thread.submit(self._fetch, step)
        began = time.perf_counter()
        fetched = future.result()
        assert self.waited_s is not None
        self.waited_s += time.perf_counter() - began
        self._ahead = step + 1, self._thread.submit(self._fetch, step + 1)
        return fetched

    def _fetch(self, step: int) -> Any:
        items = self.order.items(step * self.config.batch_size + self.start, self.count)
        return self.data.fetch(items, self._host_draws(step) if self._host_draws else [])


class DataOrder:
    """Which item stands at which place of the endless stream of shuffled epochs.

    A pure function of (seed, place): no state, so a resume needs none, and any rank can ask for its part.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def items(self, start: int, count: int) -> np.ndarray:
        """Indices (count,) int64 of places start ... start + count - 1."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.size)
        found = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            found[here] = self._shuffled(epoch)[offsets[here]]
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            # Sorting raw words: numpy promises the bit stream of Philox, not Generator.permutation's use of it.
            words = np.random.Philox(key=[self.seed, epoch]).random_raw(self.size)
            self._epoch, self._permutation = epoch, np.argsort(words, kind="stable")
        return self._permutation
