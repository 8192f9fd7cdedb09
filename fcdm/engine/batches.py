"""One training batch with all its randomness, a pure function of (seed, step, place in the global batch)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.data.order import DataOrder
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
