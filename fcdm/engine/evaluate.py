"""Weights -> sampler -> images -> features -> metrics.

The i-th sample is a function of (evaluation.seed, i) alone, to float tolerance, whatever the batch size and the
number of ranks. Resumable: what was sampled is kept every few seconds and at a stop.
"""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcdm.atomic import write_atomic
from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.diffusion.flow import interpolate, velocity_target
from fcdm.diffusion.process import Process, split_output
from fcdm.engine.distributed import Progress, Ranks
from fcdm.engine.environment import autocast
from fcdm.engine.image_grid import GRID
from fcdm.engine.sampler import Sampler
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.engine.streamed_metrics import Measure, open_measure
from fcdm.randomness import Purpose, normal, uniform

HELDOUT_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    metrics: dict[str, float]
    """fid (against the training images), fid_heldout, fid_pixels, fid_pixels_heldout, heldout_loss."""
    heldout_loss_bins: list[float]
    """Noise prediction MSE on fixed held-out images and noise, per equal bin of t."""
    floor: dict[str, float]
    """What real images score: the mean over draws of `samples` real ones, and held-out against training."""
    grid: np.ndarray
    """The first samples of rank 0 (of all, where its first batch fills the grid).

    (GRID or fewer, C, side, side) uint8.
    """
    seconds: float


@torch.no_grad()
def evaluate(
    model: nn.Module,
    config: Config,
    data: Dataset | None,
    ranks: Ranks,
    step: int,
    partial: Path,
    progress: Progress,
    stop: StopSignal,
    beat: Callable[[], None],
) -> Evaluation:
    """Evaluate `model` (in eval mode). All ranks return the same metrics; only rank 0's grid is whole.

    Without `data` there is no held-out loss.

    Raises:
        Stopped: a signal came; what was sampled is in `partial`.
        UserError: samples that are not finite.
    """
    began = time.monotonic()
    measure = open_measure(config, data, ranks.device)
    drawn = Drawn(measure, partial)
    sampler = Sampler(model, config, ranks.device)

    size, samples = config.evaluation.batch_size, config.evaluation.samples
    batches = -(-samples // size)
    saved_at = time.monotonic()
    progress.sampling(step, drawn.batches * ranks.world_size * size, samples)
    # All ranks go through the same number of rounds, also those that resume ahead or have no batch in the last one.
    for turn in range(-(-batches // ranks.world_size)):
        if signum := ranks.stop(stop.signum):
            drawn.save()
            raise Stopped(signum)
        first = (turn * ranks.world_size + ranks.rank) * size
        if turn < drawn.batches or first >= samples:
            continue
        images = sampler.images(torch.arange(first, min(first + size, samples), device=ranks.device))
        drawn.add(images, first)
        progress.sampling(step, min(samples, drawn.batches * ranks.world_size * size), samples)
        if time.monotonic() - saved_at > measure.save_every_s:
            drawn.save()
            saved_at = time.monotonic()
        beat()

    metrics, floor = measure.result(ranks, progress.note)
    bins = heldout_loss(model, config, data, ranks) if data is not None else []
    if data is not None and data.heldout:
        metrics["heldout_loss"] = float(np.mean(bins))
    return Evaluation(metrics, bins, floor, drawn.grid, time.monotonic() - began)


class Drawn:
    """What this rank has sampled so far: what is measured of it, and the first images."""

    def __init__(self, measure: Measure, partial: Path) -> None:
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


@torch.no_grad()
def heldout_loss(model: nn.Module, config: Config, data: Dataset, ranks: Ranks) -> list[float]:
    """MSE of the predicted noise (of a flow: velocity) on the held-out images, per equal bin of diffusion time.

    The same noise and timesteps for every model and checkpoint, so that differences between them have a low
    variance: what fits of scaling laws need.
    """
    process = Process.create(config.diffusion.timesteps, config.diffusion.beta_start, config.diffusion.beta_end)
    seed, size = config.evaluation.seed, config.evaluation.batch_size
    side = config.resolution // config.data.downsample
    shape = (config.data.channels, side, side)
    flow = config.diffusion.objective == "flow"
    width = config.diffusion.timesteps / HELDOUT_BINS
    bins = torch.zeros(HELDOUT_BINS, dtype=torch.float64)
    for number in range(ranks.rank, HELDOUT_BINS, ranks.world_size):
        total = 0.0
        for start in range(0, data.heldout, size):
            x, labels = data.heldout_part(start, min(start + size, data.heldout))
            places = torch.arange(start, start + len(x), device=x.device)
            u = uniform(seed, Purpose.HELDOUT_NOISE, 2 * number, places, ())
            if flow:  # bins of diffusion time: its t = 1 is data
                t = 1.0 - (number + u) / HELDOUT_BINS
            else:
                t = ((number + u.double()) * width).long().clamp_(max=config.diffusion.timesteps - 1)
            eps = normal(seed, Purpose.HELDOUT_NOISE, 2 * number + 1, places, shape)
            x_t = interpolate(x, t, eps) if flow else process.q_sample(x, t, eps)
            with autocast(config.evaluation.precision, ranks.device):
                output = model(x_t, t, labels)
            wanted = velocity_target(x, eps) if flow else eps
            found, _ = split_output(output, x.shape[1])
            total += float((wanted - found.float()).square().mean(dim=(1, 2, 3)).double().sum())
        bins[number] = total / max(1, data.heldout)
    summed: list[float] = ranks.sum(bins).tolist()
    return summed
