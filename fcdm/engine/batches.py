"""One training batch with all its randomness, a pure function of (seed, step, place in the global batch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.diffusion.objective import Objective
from fcdm.randomness import Purpose, normal, uniform


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

    def __len__(self) -> int:
        return len(self.x0)

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` images."""
        parts = zip(*(torch.split(x, size) for x in (self.x0, self.labels, self.t, self.noise)), strict=True)
        return [Batch(*part) for part in parts]


class BatchSource:
    """Draws the share [start, start + count) of any step's global batch: no state, so a resume needs none."""

    def __init__(
        self, config: Config, data: Dataset, objective: Objective, label_embedders: int, start: int, count: int
    ) -> None:
        self.config, self.data, self.objective = config, data, objective
        self.columns = label_embedders if config.label_drop.mode == "independent" else 1
        self.order = DataOrder(len(data), config.seed)
        self.start, self.count = start, count
        self.positions = torch.arange(start, start + count, device=data.device)

    def draw(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        seed, positions = self.config.seed, self.positions
        items = self.order.items(step * self.config.batch_size + self.start, self.count)
        x0, labels = self.data.draw(items, seed, step, positions)
        t = self.objective.draw_times(seed, step, positions)
        noise = normal(seed, Purpose.NOISE, step, positions, tuple(x0.shape[1:]))
        drop = uniform(seed, Purpose.LABEL_DROP, step, positions, (self.columns,))
        dropped = drop < self.config.label_drop.probability
        labels = torch.where(dropped, self.config.data.classes, labels[:, None].expand(-1, self.columns))
        return Batch(x0, labels[:, 0] if self.columns == 1 else labels, t, noise)


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
