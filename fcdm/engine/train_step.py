"""One optimiser step: the model's answer, the loss, its gradients over micro-batches and ranks, the averages."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcdm.config.schema import Config, OptimiserConfig
from fcdm.diffusion.objective import Objective
from fcdm.engine.batches import Batch
from fcdm.engine.distributed import Ranks
from fcdm.engine.environment import autocast, compiled
from fcdm.engine.state import TrainState
from fcdm.randomness import Purpose, integers


class TrainStep:
    """Trains the state's model, compiled and wrapped in DistributedDataParallel where that is asked for."""

    def __init__(self, config: Config, objective: Objective, state: TrainState, ranks: Ranks) -> None:
        self.config, self.objective, self.state, self.ranks = config, objective, state, ranks
        self.first_image, _ = ranks.share(config.batch_size)
        self.model = parallel(compiled(state.model.train(), config, ranks.device, fixed=True), ranks)
        self.buckets_stand = ranks.world_size == 1
        self.mark: Callable[[str], None] = _unmarked
        """Called at the end of each phase of a step, with its name: for benchmarks."""

    def __call__(self, batch: Batch, measure_norm: bool = False) -> Tensor | None:
        """Take one step. Returns the gradients' norm, (), where it is asked for or clipped, else None."""
        config, state = self.config, self.state
        parts = batch.split(config.micro_batch or len(batch))
        if not self.buckets_stand:
            self._settle_buckets(parts[0])
        for group, rate in zip(state.optimiser.param_groups, state.rates, strict=True):
            group["lr"] = rate * rate_share(config.optimiser, state.step)
        if state.model.is_stochastic:
            seed_model(config.seed, state.step, self.first_image)
        loss = self._backward(parts, len(batch))
        norm = None
        if config.optimiser.clip_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(state.weights, config.optimiser.clip_grad_norm)
        elif measure_norm:
            norm = nn.utils.get_total_norm([w.grad for w in state.weights if w.grad is not None])
        if state.own_optimiser:  # alike on all ranks, whose weights are one
            torch.manual_seed(int(integers(config.seed, Purpose.OPTIMISER, state.step, torch.tensor([0]), 2**31)))
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        self.mark("optimiser")
        state.advance(loss, config.ema)
        self.mark("EMA")
        return norm

    def _settle_buckets(self, part: Batch) -> None:
        """A backward pass for nothing, before the first step of a process.

        DistributedDataParallel reduces its first gradients in the order in which it was given the weights, and all
        later ones in the order in which the first came: a sum over ranks that is rounded otherwise. Without this the
        first step after a resume would differ from the same step of an undisturbed run.
        """
        self._add_gradients(part, len(part))
        self.state.optimiser.zero_grad(set_to_none=True)
        self.buckets_stand = True

    def _backward(self, parts: list[Batch], images: int) -> Tensor:
        """Gradients of the global batch's mean loss into .grad; returns that mean loss, (), on the device.

        `parts`: micro-batches of this rank's share of `images`.
        """
        ranks = self.ranks
        total = torch.zeros((), device=ranks.device)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            no_sync = contextlib.nullcontext() if last or ranks.world_size == 1 else self.model.no_sync()  # type: ignore[operator]
            with no_sync:
                total += self._add_gradients(part, images)
        return ranks.sum(total) / ranks.world_size

    def _add_gradients(self, part: Batch, images: int) -> Tensor:
        """Add a part's gradients to .grad; returns its share, (), of the mean loss over `images`."""
        x_t = self.objective.corrupt(part.x0, part.t, part.noise)
        with autocast(self.config.precision, self.ranks.device):
            output = self.model(x_t, part.t, part.labels, **part.conditions)
        losses = self.objective.loss(output, part.x0, x_t, part.t, part.noise).loss
        # Each part weighs by its images, so micro-batches and ranks (whose gradients DDP averages) make the mean over
        # the global batch.
        loss = losses.sum() / images
        self.mark("forward")
        loss.backward()  # type: ignore[no-untyped-call]
        self.mark("backward")
        return loss.detach()


def _unmarked(phase: str) -> None: ...


def rate_share(asked: OptimiserConfig, step: int) -> float:
    """The share of the learning rate that step `step` (counted from 0) takes.

    It grows linearly to 1 in the warm-up; by `inverse_sqrt` it falls from the step t_ref = `decay_from` on as
    1 / sqrt(t / t_ref), t counted from 1 (as in EDM2, arXiv 2312.02696). Of the steps so far alone; but of a branch,
    whose share falls linearly besides, from 1 at the step where it leaves to 0 at its end (arXiv 2405.18392).
    """
    if asked.cooldown is not None and step >= asked.cooldown[0]:
        start, end = asked.cooldown
        going_on = dataclasses.replace(asked, cooldown=None)
        return rate_share(going_on, step) * (end - step) / (end - start)
    if step < asked.warmup_steps:
        return (step + 1) / asked.warmup_steps
    if asked.decay_from is None or step < asked.decay_from:
        return 1.0
    return math.sqrt(asked.decay_from / (step + 1))


def seed_model(seed: int, step: int, first_image: int) -> None:
    """Seed what the model itself draws from torch in a step: a function of the step, so a resume replays it.

    Of the place of the rank's first image in the batch too, so that ranks differ. Not kept the same under
    another world size or micro-batch.
    """
    torch.manual_seed(int(integers(seed, Purpose.MODEL, step, torch.tensor([first_image]), 2**31)))


def parallel(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model as a step calls it: gradients averaged over ranks where there are several."""
    if ranks.world_size == 1:
        return model
    # Channels-last gradients are copied into DDP's flat buckets; torch says so once, to no use for a user.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    wrapped = DistributedDataParallel(
        model,
        device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
    # Buffers are fixed tables: models with others, such as BatchNorm's, are refused (`fcdm.models.measure`). Not by the
    # constructor's keyword, which has another name in torch 2.13.
    wrapped.broadcast_buffers = False
    return wrapped
