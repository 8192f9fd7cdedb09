"""What is recorded of training: the mean loss, the gradients' norm, images per second, FLOPs spent, waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from torch import Tensor

from fcdm.config.schema import Config
from fcdm.engine.batches import BatchSource
from fcdm.engine.state import TrainState
from fcdm.runs.run_cost import train_flops


class Meter:
    """Reads at every `log_every`-th step and at budgets; the clock leaves out saving and evaluating."""

    def __init__(self, config: Config, state: TrainState, batches: BatchSource) -> None:
        self.config, self.state, self.batches = config, state, batches
        self.step_flops = train_flops(config, 1)
        self.mean_loss = 0.0
        """Of the last reading."""
        self.restart()

    def is_due(self, step: int, target: int) -> bool:
        return step % self.config.log_every == 0 or step == target

    def read(self, grad_norm: Tensor | None) -> dict[str, float]:
        """Key -> value of the state's step. Waits for the device.

        There is no loss where a resume under another `log_every` cut its window: none is better than a wrong one.
        """
        state = self.state
        self.mean_loss = float(state.loss_sum) / state.loss_count
        measured = {"loss": self.mean_loss} if state.window_is_whole(self.config.log_every) else {}
        measured["grad_norm"] = float(grad_norm) if grad_norm is not None else 0.0
        images = (state.step - self.since) * self.config.batch_size
        seconds = time.perf_counter() - self.clock
        measured["images_per_s"] = images / seconds
        if self.batches.waited_s is not None:
            # Of this rank. The device may have been busy meanwhile, so it idled for data at most so long.
            measured["data_wait_share"] = (self.batches.waited_s - self.waited) / seconds
        measured["train_pflops"] = self.step_flops * state.step / 1e15
        if state.step % self.config.log_every == 0:
            state.start_window()
        self.restart()
        return measured

    def restart(self) -> None:
        """Count speed from here."""
        self.clock, self.since = time.perf_counter(), self.state.step
        self.waited = self.batches.waited_s or 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.clock += time.perf_counter() - began
