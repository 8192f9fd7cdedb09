"""Models with weights found on disk: the EMA, the raw ones, or an average made of snapshots."""

from __future__ import annotations

import torch
from torch import nn

from fcdm.config.averages import Kept, power_length
from fcdm.config.schema import Config
from fcdm.engine.snapshots import Synthesised, synthesised
from fcdm.engine.state import create_model, load_weights
from fcdm.engine.weights import read_weights
from fcdm.errors import UserError
from fcdm.runs.weights import Weights


def open_model(weights: Weights, config: Config, device: torch.device) -> nn.Module:
    """The configuration's model, in eval mode, with those of the weights that `evaluation.weights` names.

    Raises UserError where they are of another model, or not there.
    """
    model = create_model(config, device).eval().requires_grad_(False)
    load_named(model, weights, config.evaluation.weights, config.evaluation.weights_snapshots)
    return model


def load_named(model: nn.Module, found: Weights, name: str, snapshots: str | None) -> Synthesised | None:
    """Load `ema`, `raw` or `power:0.08` of what was found into the model; how the last was made, else None.

    snapshots: of which an average is made (`fcdm.config.averages.Kept`). Raises UserError where they are of another
    model, CannotJudge where they are not there.
    """
    length = power_length(name)
    if length is None:
        load_weights(model, read_weights(found, model, group_of(name)))
        return None
    if found.run is None or found.step is None:
        raise UserError(f"{found.path} is a file: {name} is made of a run's snapshots")
    if snapshots is None:
        raise UserError(f"{name}: the job does not say of which snapshots: give the command again")
    made = synthesised(found.run.snapshots, found.step, length, Kept.of(snapshots))
    load_weights(model, made.weights)
    return made


def group_of(name: str) -> str:
    """The group of a checkpoint that holds `ema` or `raw` weights."""
    return "model" if name == "raw" else "ema"
