"""One optimiser step: the model's answer, the loss, its gradients over micro-batches and ranks, the averages."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcdm.config.schema import Config
from fcdm.diffusion.objective import Objective
from fcdm.engine.batches import Batch
from fcdm.engine.distributed import Ranks
from fcdm.engine.environment import autocast
from fcdm.engine.state import TrainState
from fcdm.randomness import Purpose, integers


class TrainStep:
    """Trains the state's model, compiled and wrapped in DistributedDataParallel where that is asked for."""

    def __init__(self, config: Config, objective: Objective, state: TrainState, ranks: Ranks) -> None:
        self.config, self.objective, self.state, self.ranks = config, objective, state, ranks
        self.first_image, _ = ranks.share(config.batch_size)
        self.model = _for_training(state.model, config, ranks)
        self.mark: Callable[[str], None] = _unmarked
        """Called at the end of each phase of a step, with its name: for benchmarks."""

    def __call__(self, batch: Batch, measure_norm: bool = False) -> Tensor | None:
        """Take one step. Returns the gradients' norm, (), where it is asked for or clipped, else None."""
        config, state = self.config, self.state
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(config, state.step)
        if state.model.is_stochastic:
            seed_model(config.seed, state.step, self.first_image)
        loss = self._backward(batch)
        norm = None
        if config.optimiser.clip_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(state.weights, config.optimiser.clip_grad_norm)
        elif measure_norm:
            norm = nn.utils.get_total_norm([w.grad for w in state.weights if w.grad is not None])
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        self.mark("optimiser")
        state.advance(loss, config.ema)
        self.mark("EMA")
        return norm

    def _backward(self, batch: Batch) -> Tensor:
        """Gradients of the global batch's mean loss into .grad; returns that mean loss, (), on the device."""
        ranks, objective = self.ranks, self.objective
        total = torch.zeros((), device=ranks.device)
        parts = batch.split(self.config.micro_batch or len(batch))
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            no_sync = contextlib.nullcontext() if last or ranks.world_size == 1 else self.model.no_sync()  # type: ignore[operator]
            with no_sync:
                x_t = objective.corrupt(part.x0, part.t, part.noise)
                with autocast(self.config.precision, ranks.device):
                    output = self.model(x_t, part.t, part.labels)
                losses = objective.loss(output, part.x0, x_t, part.t, part.noise).loss
                # Each part weighs by its images, so micro-batches and ranks (whose gradients DDP averages) make
                # the mean over the global batch.
                loss = losses.sum() / len(batch)
                self.mark("forward")
                loss.backward()  # type: ignore[no-untyped-call]
                self.mark("backward")
                total += loss.detach()
        return ranks.sum(total) / ranks.world_size


def _unmarked(phase: str) -> None: ...


def learning_rate(config: Config, step: int) -> float:
    """The rate of step `step` (counted from 0): constant after a linear warm-up."""
    warmup = config.optimiser.warmup_steps
    return config.optimiser.lr * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def seed_model(seed: int, step: int, first_image: int) -> None:
    """Seed what the model itself draws from torch in a step: a function of the step, so a resume replays it.

    Of the place of the rank's first image in the batch too, so that ranks differ. Not kept the same under
    another world size or micro-batch.
    """
    torch.manual_seed(int(integers(seed, Purpose.MODEL, step, torch.tensor([first_image]), 2**31)))


def _for_training(model: nn.Module, config: Config, ranks: Ranks) -> nn.Module:
    """The model as the step calls it: compiled if asked, gradients averaged over ranks."""
    model.train()
    if config.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if ranks.world_size > 1:
        # Channels-last gradients are copied into DDP's flat buckets; torch says so once, to no use for a user.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            model,
            device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    return model
