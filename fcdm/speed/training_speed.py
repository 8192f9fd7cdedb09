"""How fast a model trains here, phase by phase, in how much memory, and how many images fit into one forward pass.

The step that is timed is the engine's own (`fcdm.engine.train_step`), on its own batches.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import torch

from fcdm.config.schema import Config
from fcdm.config.shape import shape_of
from fcdm.data.dataset import Dataset
from fcdm.diffusion import make_objective
from fcdm.engine.batches import BatchSource
from fcdm.engine.distributed import Ranks
from fcdm.engine.state import TrainState
from fcdm.engine.train_step import TrainStep
from fcdm.models import build_model
from fcdm.plan.estimate import memory
from fcdm.runs.run_cost import run_cost
from fcdm.speed.stopwatch import PhaseClock, free_memory, seconds_per_call, watch_peak

PHASES = ("data", "forward", "backward", "optimiser", "EMA")
PHASE_STEPS = 5
LARGER = 1.15
"""What is estimated to take so much of the device's memory is tried still: an estimate may be too high."""
CPU_SHARE = 0.6
"""Of a machine's free memory that is tried on a CPU."""


@dataclass(frozen=True)
class TrainingSpeed:
    """One way to train on `images` images a step."""

    images: int
    """In one forward pass."""
    compiled: bool
    activation_checkpointing: bool
    images_per_s: float
    """Of whole steps, without waiting between phases."""
    flops_per_s: float
    """Training FLOPs; recomputation is not counted."""
    phases_s: dict[str, float]
    """Median seconds of each of PHASES, with the device waited for in between."""
    peak_bytes: int | None
    """None on a CPU."""
    estimated_bytes: int
    """What a plan says of it."""

    @property
    def text(self) -> str:
        """`64 images a pass, compiled`."""
        words = [f"{self.images} images a pass", "compiled" if self.compiled else "eager"]
        return ", ".join(words + ["activation checkpointing"] * self.activation_checkpointing)


@dataclass(frozen=True)
class LargestBatch:
    """How many images fit into one forward pass."""

    images: int
    bounded: bool
    """By the memory; else more were not asked for, or there was no time to try."""


class Trainer:
    """A model in training, in whatever way is asked for; its state is made once."""

    def __init__(self, config: Config, data: Dataset, device: torch.device) -> None:
        self.config = dataclasses.replace(config, micro_batch=None)
        self.data, self.device = data, device
        self.ranks = Ranks(0, 1, device)
        self.objective = make_objective(config.diffusion)
        with torch.device(device):  # drawn on the device: which weights they are does not matter, and it is faster
            model = build_model(config.model, **shape_of(config))
        self.state = TrainState.of(model, config, device)
        self.steps: dict[tuple[int, bool], TrainStep] = {}
        self.batches: dict[int, BatchSource] = {}

    def estimate(self, images: int, checkpointing: bool) -> int:
        """Bytes that a plan says."""
        config = dataclasses.replace(self.config, micro_batch=images, activation_checkpointing=checkpointing)
        return memory(config, 1).total

    def step(self, images: int, compiled: bool, checkpointing: bool, clock: PhaseClock | None = None) -> None:
        """One step of the engine; with a clock, phase by phase."""
        if hasattr(self.state.model, "activation_checkpointing"):
            self.state.model.activation_checkpointing = checkpointing  # type: ignore[assignment]
        config = dataclasses.replace(self.config, batch_size=images, compile=compiled)
        key = (images, compiled)
        if key not in self.steps:
            if compiled:
                # A run has one batch size: a second one here would be compiled for batches of any.
                torch.compiler.reset()
            self.steps[key] = TrainStep(config, self.objective, self.state, self.ranks)
        train_step = self.steps[key]
        if images not in self.batches:
            columns = int(self.state.model.label_embedders)  # type: ignore[arg-type]
            self.batches[images] = BatchSource(config, self.data, self.objective, columns, 0, images)
        train_step.mark = clock.mark if clock else _no_mark
        if clock:
            clock.start()
        batch = self.batches[images].draw(self.state.step)
        train_step.mark("data")
        train_step(batch)

    def measure(self, images: int, compiled: bool, checkpointing: bool, limit_s: float) -> TrainingSpeed:
        """Raises torch.OutOfMemoryError, with nothing left in memory but the state."""

        def step() -> None:
            self.step(images, compiled, checkpointing)

        try:
            step()  # makes the optimiser's moments and compiles
            peak = watch_peak(self.device)
            seconds = seconds_per_call(step, self.device, limit_s)
            peak_bytes = peak()
            clock = PhaseClock(self.device)
            for _ in range(PHASE_STEPS if PHASE_STEPS * seconds < limit_s else 1):
                self.step(images, compiled, checkpointing, clock)
        except torch.OutOfMemoryError:
            self.state.optimiser.zero_grad(set_to_none=True)
            raise
        return TrainingSpeed(
            images=images,
            compiled=compiled,
            activation_checkpointing=checkpointing,
            images_per_s=images / seconds,
            flops_per_s=run_cost(self.config).train_flops_per_image * images / seconds,
            phases_s=clock.medians(),
            peak_bytes=peak_bytes,
            estimated_bytes=self.estimate(images, checkpointing),
        )

    def fits(self, images: int, checkpointing: bool) -> bool:
        """Whether a step on so many images runs."""
        ran = True
        try:
            self.step(images, False, checkpointing)
        except torch.OutOfMemoryError:
            ran = False
        # Outside the handler: the error's traceback holds the tensors that filled the memory.
        self.state.optimiser.zero_grad(set_to_none=True)
        free_memory(self.device)
        return ran

    def largest_batch(self, checkpointing: bool, most: int) -> LargestBatch:
        """The largest power of two of images, at most the run's batch and `most`, that runs in one forward pass.

        Starts from the estimate, and trusts only what ran.
        """
        total = memory_of(self.device)
        most = min(self.config.batch_size, max(1, most))
        images = 1
        while 2 * images <= most and self.estimate(2 * images, checkpointing) <= LARGER * total:
            images *= 2
        tried = images
        while images and not self.fits(images, checkpointing):
            images //= 2
        return LargestBatch(images, images < tried or self.estimate(2 * images, checkpointing) > LARGER * total)


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    # Linux ends a process that takes too much, instead of telling it.
    return int(CPU_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


def _no_mark(phase: str) -> None: ...
