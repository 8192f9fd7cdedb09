"""Weights -> sampler -> images -> features -> metrics.

Several spaces of features share the samples: they are drawn and decoded once, and the held-out loss is computed once.

The i-th sample is a function of (evaluation.seed, i) alone, to float tolerance, whatever the batch size and the
number of ranks. Resumable: what was sampled is kept at a stop and every `save_every_s` of the metrics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.diffusion import make_objective
from fcdm.diffusion.process import split_output
from fcdm.engine.draw_and_measure import draw_for_all, save_all
from fcdm.engine.environment import autocast_of_many_calls
from fcdm.engine.image_grid import COLUMNS, tile
from fcdm.engine.model_conditions import of_heldout
from fcdm.engine.sampler import Sampler
from fcdm.engine.stop import Interrupted, Stopped
from fcdm.engine.streamed_metrics import Measure, open_measure, result_of
from fcdm.engine.worker import Worker, in_batches
from fcdm.errors import UserError
from fcdm.randomness import Purpose, normal, uniform

HELDOUT_BINS = 10


@dataclass(frozen=True)
class EvaluationResult:
    metrics: dict[str, float]
    """Those of `streamed_metrics` for the features that are asked for, and heldout_loss."""
    heldout_loss_bins: list[float]
    """MSE of the prediction on fixed held-out images and noise, per equal bin of diffusion time."""
    floor: dict[str, float]
    """What real images score: the mean over draws of `samples` real ones, and held-out against training."""
    grid: np.ndarray
    """The first samples of rank 0 (of all, where its first batch fills the grid).

    (GRID or fewer, C, side, side) uint8.
    """
    seconds: float
    """Since the evaluation before it of the same samples, or since they were begun: sums to what all of them took."""

    @property
    def content(self) -> dict[str, Any]:
        """What a file of it says besides what was evaluated, and by which protocol."""
        return {
            "metrics": self.metrics,
            "heldout_loss_bins": self.heldout_loss_bins,
            "floor": self.floor,
            "grid": {"columns": COLUMNS, "tile": tile(self.grid.shape[-1])},
        }


@torch.no_grad()
def evaluate(
    model: nn.Module, asked: Mapping[Path, Config], data: Dataset | None, step: int, worker: Worker
) -> Iterator[EvaluationResult | UserError]:
    """Evaluate `model` (in eval mode) as of `step` in each of these spaces, in their order, as soon as each is known.

    Of a space that cannot be opened where others can, it is said why in the place of its result.

    asked: configurations that differ in what is measured of the samples, by the file of each that keeps what was
    measured so far. All ranks have the same metrics; only rank 0's grid is whole. Without `data` there is no held-out
    loss.

    Raises:
        Stopped: a signal came; what was sampled is in the files.
        UserError: samples that are not finite; no space that can be opened.
    """
    began = time.monotonic()
    config = next(iter(asked.values()))
    sampler = Sampler(model, config, worker.ranks.device, interrupt=worker.interrupt)
    opened = {partial: _opened(one, data, worker) for partial, one in asked.items()}
    measures = {partial: one for partial, one in opened.items() if not isinstance(one, UserError)}
    if not measures:
        refusals = [one for one in opened.values() if isinstance(one, UserError)]
        worker.ranks.refuse_together(refusals[0] if worker.ranks.is_main else None)

    def images(first: int, last: int) -> Tensor:
        return sampler.images(torch.arange(first, last, device=worker.ranks.device))

    batches = in_batches(config.evaluation.samples, config.evaluation.batch_size)
    drawn = draw_for_all(images, batches, measures, step, worker)
    try:
        bins = heldout_loss(model, config, data, worker) if data is not None else []
    except Stopped:
        save_all(drawn)
        raise
    # A kill between two results must not cost the samples of those that are still to come.
    save_all(drawn[1:])
    left = iter(range(len(drawn)))
    for measure in opened.values():
        if isinstance(measure, UserError):
            yield measure
            continue
        place = next(left)
        one = drawn[place]
        try:
            metrics, floor = result_of(measure, worker)
        except Stopped:
            save_all(drawn[place:])
            raise
        if data is not None and data.heldout:
            metrics["heldout_loss"] = float(np.mean(bins))
        now = time.monotonic()
        yield EvaluationResult(metrics, bins, floor, one.grid, now - began)
        began = now


def _opened(config: Config, data: Dataset | None, worker: Worker) -> Measure | UserError:
    """What is asked for, or why it cannot be had; the same on all ranks."""
    why: str | None = None
    try:
        found = open_measure(config, data, worker)
    except UserError as error:
        why = str(error)
    except SystemExit:  # of the others, where the first refuses (`Ranks.refuse_together`)
        why = ""
    told = [text for text in worker.ranks.of_all(why) if text is not None]
    return UserError(max(told, key=bool)) if told else found


@torch.no_grad()
def heldout_loss(model: nn.Module, config: Config, data: Dataset, worker: Worker) -> list[float]:
    """MSE of the predicted noise (of a flow: velocity) on the held-out images, per equal bin of diffusion time.

    The same noise and timesteps for every model and checkpoint, so that differences between them have a low
    variance: what fits of scaling laws need. Raises Stopped.
    """
    ranks = worker.ranks
    bins = torch.zeros(HELDOUT_BINS, dtype=torch.float64)
    with contextlib.suppress(Interrupted), autocast_of_many_calls(config.evaluation.precision, ranks.device, model):
        for number in range(ranks.rank, HELDOUT_BINS, ranks.world_size):
            bins[number] = _heldout_loss_of_bin(number, model, config, data, worker.interrupt)
    worker.stop_together()
    summed: list[float] = ranks.sum(bins).tolist()
    return summed


def _heldout_loss_of_bin(
    number: int, model: nn.Module, config: Config, data: Dataset, interrupt: Callable[[], None]
) -> float:
    objective = make_objective(config.diffusion)
    seed, size = config.evaluation.seed, config.evaluation.batch_size
    side = config.resolution // config.data.downsample
    shape = (config.data.channels, side, side)
    total = 0.0
    for start in range(0, data.heldout, size):
        interrupt()
        x, labels = data.heldout_part(start, min(start + size, data.heldout))
        places = torch.arange(start, start + len(x), device=x.device)
        u = uniform(seed, Purpose.HELDOUT_NOISE, 2 * number, places, ())
        t = objective.times_in_bin(number, HELDOUT_BINS, u)
        eps = normal(seed, Purpose.HELDOUT_NOISE, 2 * number + 1, places, shape)
        output = model(objective.corrupt(x, t, eps), t, labels, **of_heldout(data, start, start + len(x)))
        answer, _ = split_output(output, x.shape[1])
        total += float((objective.target(x, eps, t) - answer).square().mean(dim=(1, 2, 3)).double().sum())
    return total / max(1, data.heldout)
