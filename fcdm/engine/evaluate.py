"""Weights -> sampler -> images -> features -> metrics.

Several spaces of features share the samples: they are drawn and decoded once, and the held-out loss is computed once.
With `evaluation.samples=0` there are losses alone.

The i-th sample is a function of (evaluation.seed, i) alone, to float tolerance, whatever the batch size and the
number of ranks. Resumable: what was sampled is kept at a stop and every `save_every_s` of the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.engine.draw_and_measure import draw_for_all, save_all
from fcdm.engine.evaluated_loss import heldout_loss
from fcdm.engine.image_grid import COLUMNS, tile
from fcdm.engine.sampler import Sampler
from fcdm.engine.stop import Stopped
from fcdm.engine.streamed_metrics import Measure, open_measure, result_of
from fcdm.engine.worker import Worker, in_batches
from fcdm.errors import UserError


@dataclass(frozen=True)
class EvaluationResult:
    metrics: dict[str, float]
    """Those of `streamed_metrics` for the features that are asked for, heldout_loss, and train_loss where
    `evaluation.loss_images` is said."""
    bins: dict[str, list[float]]
    """heldout_loss and train_loss, each per equal bin of diffusion time."""
    floor: dict[str, float]
    """What real images score: the mean over draws of `samples` real ones, and held-out against training."""
    seconds: float
    """Since the evaluation before it of the same samples, or since they were begun: sums to what all of them took."""
    grid: np.ndarray = field(default_factory=lambda: np.empty((0,), dtype=np.uint8))
    """The first samples of rank 0 (of all, where its first batch fills the grid): (GRID or fewer, C, side, side) uint8;
    empty of losses alone."""

    @property
    def content(self) -> dict[str, Any]:
        """What a file of it says besides what was evaluated, and by which protocol."""
        return {
            "metrics": self.metrics,
            "heldout_loss_bins": [],
            **{f"{name}_bins": values for name, values in self.bins.items()},
            "floor": self.floor,
            **({"grid": {"columns": COLUMNS, "tile": tile(self.grid.shape[-1])}} if len(self.grid) else {}),
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
        UserError: samples that are not finite; no space that can be opened; losses alone of data of which nothing is
            held out.
    """
    began = time.monotonic()
    config = next(iter(asked.values()))
    if config.evaluation.samples == 0:
        worker.progress.sampling(step, 0, 0)
        losses = _losses(model, config, data, worker)
        if not losses:
            raise UserError("evaluation.samples=0 asks for losses alone, and no image of this data is held out")
        yield EvaluationResult(_means(losses), losses, {}, time.monotonic() - began)
        return
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
        losses = _losses(model, config, data, worker)
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
        now = time.monotonic()
        yield EvaluationResult(metrics | _means(losses), losses, floor, now - began, one.grid)
        began = now


def _losses(model: nn.Module, config: Config, data: Dataset | None, worker: Worker) -> dict[str, list[float]]:
    """`EvaluationResult.bins`; empty where nothing is held out. Raises Stopped."""
    if data is None or not data.heldout:
        return {}
    found = {"heldout_loss": heldout_loss(model, config, data, worker)}
    if config.evaluation.loss_images is not None:
        found["train_loss"] = heldout_loss(model, config, data, worker, of_training=True)
    return found


def _means(bins: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in bins.items()}


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
