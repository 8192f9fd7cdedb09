"""The loss of fixed images with fixed noise: of images that are held out, and beside it of images that are trained on.

The same noise and timesteps for every model and checkpoint, so that differences between them have a low variance: what
fits of scaling laws need. With the same weights, noise and timesteps the difference of the two is what was memorised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset
from fcdm.diffusion import make_objective
from fcdm.diffusion.process import split_output
from fcdm.engine.environment import autocast_of_many_calls
from fcdm.engine.model_conditions import of_images
from fcdm.engine.stop import Interrupted
from fcdm.engine.worker import Worker, in_batches
from fcdm.metrics.inception_score import shuffled
from fcdm.randomness import Purpose, normal, uniform

BINS = 10


@torch.no_grad()
def heldout_loss(
    model: nn.Module, config: Config, data: Dataset, worker: Worker, of_training: bool = False
) -> list[float]:
    """MSE of the predicted noise (of a flow: velocity) on the held-out images, per equal bin of diffusion time.

    Of `evaluation.loss_images` of them, if that is said. of_training: of as many images that are trained on instead,
    not mirrored. Raises Stopped.
    """
    ranks = worker.ranks
    items = _items(config, data, heldout=not of_training)
    bins = torch.zeros(BINS, dtype=torch.float64)
    with contextlib.suppress(Interrupted), autocast_of_many_calls(config.evaluation.precision, ranks.device, model):
        for number in range(ranks.rank, BINS, ranks.world_size):
            bins[number] = _of_bin(number, model, config, data, items, not of_training, worker.interrupt)
    worker.stop_together()
    summed: list[float] = ranks.sum(bins).tolist()
    return summed


def _items(config: Config, data: Dataset, heldout: bool) -> NDArray[np.int64]:
    """Which images: all, or a draw of `evaluation.loss_images` by the evaluation's seed, in ascending order."""
    most = config.evaluation.loss_images
    count = data.heldout if most is None else min(most, data.heldout)
    available = data.heldout if heldout else len(data)
    if count >= available:
        return np.arange(available)
    return np.sort(shuffled(available, config.evaluation.seed)[:count])


def _of_bin(
    number: int,
    model: nn.Module,
    config: Config,
    data: Dataset,
    items: NDArray[np.int64],
    heldout: bool,
    interrupt: Callable[[], None],
) -> float:
    objective = make_objective(config.diffusion)
    seed = config.evaluation.seed
    side = config.resolution // config.data.downsample
    shape = (config.data.channels, side, side)
    total = 0.0
    for start, end in in_batches(len(items), config.evaluation.batch_size):
        interrupt()
        x, labels = data.unaltered(items[start:end], heldout)
        places = torch.arange(start, end, device=x.device)
        u = uniform(seed, Purpose.HELDOUT_NOISE, 2 * number, places, ())
        t = objective.times_in_bin(number, BINS, u)
        eps = normal(seed, Purpose.HELDOUT_NOISE, 2 * number + 1, places, shape)
        output = model(objective.corrupt(x, t, eps), t, labels, **of_images(data, items[start:end], heldout))
        answer, _ = split_output(output, x.shape[1])
        total += float((objective.target(x, eps, t) - answer).square().mean(dim=(1, 2, 3)).double().sum())
    return total / max(1, len(items))
