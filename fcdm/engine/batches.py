"""One training batch with all its randomness, a pure function of (seed, step, place in the global batch)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.data.order import DataOrder
from fcdm.diffusion.process import Process
from fcdm.randomness import Purpose, integers, normal, uniform


@dataclass(frozen=True)
class Batch:
    """This rank's share of one step's global batch. n images."""

    x0: Tensor
    """(n, C, side, side) float32."""
    labels: Tensor
    """(n,) or (n, K) int64, dropped ones replaced by the null class."""
    t: Tensor
    """(n,) int64 timesteps; of a flow, float32 times in [0, 1)."""
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
        self, config: Config, data: Dataset, process: Process, label_embedders: int, start: int, count: int
    ) -> None:
        self.config, self.data, self.process = config, data, process
        self.columns = label_embedders if config.label_drop.mode == "independent" else 1
        self.order = DataOrder(len(data), config.seed)
        self.start, self.count = start, count
        self.positions = torch.arange(start, start + count, device=data.device)

    def draw(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        seed, positions = self.config.seed, self.positions
        items = self.order.items(step * self.config.batch_size + self.start, self.count)
        x0, labels = self.data.draw(items, seed, step, positions)
        if self.config.diffusion.objective == "flow":
            t = uniform(seed, Purpose.TIMESTEP, step, positions, ())
        else:
            t = integers(seed, Purpose.TIMESTEP, step, positions, len(self.process))
        noise = normal(seed, Purpose.NOISE, step, positions, tuple(x0.shape[1:]))
        drop = uniform(seed, Purpose.LABEL_DROP, step, positions, (self.columns,))
        dropped = drop < self.config.label_drop.probability
        labels = torch.where(dropped, self.config.data.classes, labels[:, None].expand(-1, self.columns))
        return Batch(x0, labels[:, 0] if self.columns == 1 else labels, t, noise)
