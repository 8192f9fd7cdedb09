"""What training changes: weights, their average, the optimiser's state, the step; and how it goes to disk."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcdm.config.ema_lag import ema_decay
from fcdm.config.schema import Config, EMAConfig, PowerEMAConfig
from fcdm.config.shape import shape_of
from fcdm.engine.checkpoint import mapped_group, save_checkpoint
from fcdm.engine.ema import update_ema
from fcdm.engine.ema_snapshots import PowerAverages
from fcdm.engine.host_copy import Groups
from fcdm.engine.optimisers import STATE, make_optimiser, packed, rates_of, restore
from fcdm.errors import UserError
from fcdm.models import build_model
from fcdm.runs.checkpoints import read_manifest
from fcdm.runs.tracked_ema import EVERY


def create_model(config: Config, device: torch.device) -> nn.Module:
    """The model at its initial weights: drawn on the CPU, so that the seed means the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: nn.Module = build_model(
            config.model, **shape_of(config), activation_checkpointing=config.activation_checkpointing
        )
    return model.to(device)


@dataclass
class TrainState:
    """Everything needed to continue bit for bit. Randomness is not in it: it is a function of the step."""

    model: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    step: int
    """Optimiser steps done."""
    loss_sum: Tensor
    """Sum of the global batch's losses since the last multiple of `log_every`; on the device."""
    loss_count: int
    power: PowerAverages
    bad_step: Tensor
    """First step of this process whose loss was not finite, else 0; on the device, so that nothing waits."""
    own_optimiser: bool = False
    """Whether the optimiser is the user's own."""
    rates: list[float] = field(default_factory=list)
    """The learning rate of each group of its weights, before any warm-up."""

    @classmethod
    def create(cls, config: Config, device: torch.device) -> TrainState:
        """That of a run before its first step."""
        return cls.of(create_model(config, device), config, device)

    @classmethod
    def of(cls, model: nn.Module, config: Config, device: torch.device) -> TrainState:
        """That of a model before its first step, whatever its weights are."""
        ema = copy.deepcopy(model).eval().requires_grad_(False)
        optimiser = make_optimiser(model, config.optimiser)
        power = PowerAverages(config.power_ema.sigma_rel or [], model, config.power_ema.every)
        zero = torch.zeros((), device=device)
        bad_step = torch.zeros((), dtype=torch.int64, device=device)
        own, rates = config.optimiser.target is not None, rates_of(optimiser)
        return cls(model, ema, optimiser, 0, zero, 0, power, bad_step, own, rates)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights instead of drawn ones: the model, and all of its averages with it."""
        for module in (self.model, self.ema):
            load_weights(module, dict(weights))
        self.power.start_from(weights)

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    @cached_property
    def averages(self) -> list[nn.Parameter]:
        """The EMA of `weights`."""
        return list(self.ema.parameters())

    def advance(self, loss: Tensor, ema: EMAConfig) -> None:
        """Count the optimiser's step just done, with its loss (), and bring all averages up to it.

        Nothing waits for the device.
        """
        self.step += 1
        update_ema(self.averages, self.weights, ema_decay(ema, self.step))
        self.power.update(self.weights, self.step)
        self.loss_sum = self.loss_sum + loss
        self.loss_count += 1
        self.bad_step = torch.where((self.bad_step == 0) & ~loss.isfinite(), self.step, self.bad_step)

    def start_window(self) -> None:
        """Begin the next window of the loss record."""
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0

    def window_is_whole(self, log_every: int) -> bool:
        """Whether the window holds all its steps so far: not after a resume under another `log_every`."""
        return self.loss_count == (self.step - 1) % log_every + 1

    def broken_at(self) -> int | None:
        """The step at which training left the finite numbers, or None; looks at losses and weights."""
        if bad := int(self.bad_step):
            return bad
        # A finite loss can still have made a step to weights that are not.
        norms = torch._foreach_norm([p.detach() for p in self.model.parameters()])
        return None if math.isfinite(float(torch.stack(norms).sum())) else self.step

    def contents(self) -> tuple[Groups, dict[str, Any]]:
        """What the checkpoint of the present step holds: the tensors themselves, by group, and what is no tensor."""
        moments, plain = packed(self.optimiser, self.model, self.own_optimiser)
        moments["loss_sum"] = self.loss_sum
        groups = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), STATE: moments}
        return groups | self.power.groups(), {"loss_count": self.loss_count, EVERY: self.power.every, **plain}

    def save(self, folder: Path) -> Path:
        """Write the checkpoint of the present step into `folder` here and now (training has `Saver`)."""
        return save_checkpoint(folder, self.step, *self.contents())

    def restore(self, path: Path, asked: PowerEMAConfig) -> None:
        """Continue from the checkpoint `path`, whose checksums are verified already (`latest_checkpoint`).

        Each tensor goes from the file to its place; besides what is kept, memory holds the pages of one file at a time.
        Raises UserError where power function averages are asked for that the checkpoint does not have.
        """
        manifest = read_manifest(path)
        self.step = int(manifest["step"])
        load_weights(self.model, mapped_group(path, "model"))
        load_weights(self.ema, mapped_group(path, "ema"))
        self.power = PowerAverages([], self.model)  # what a new run would track goes, before what this one does comes
        self.power = PowerAverages.restored(asked, path, manifest["extra"], self.model)
        moments = mapped_group(path, STATE)
        self.loss_sum = moments["loss_sum"].to(self.loss_sum.device, copy=True)
        self.loss_count = int(manifest["extra"]["loss_count"])
        restore(self.optimiser, self.model, self.own_optimiser, moments, manifest["extra"], self.step)


def load_weights(module: nn.Module, tensors: dict[str, Any]) -> None:
    """Copy a checkpoint's weights into the module, whatever memory format either has."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {str(error).splitlines()[1].strip()}") from None
