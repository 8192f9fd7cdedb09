"""A model with weights found on disk, ready to be sampled."""

from __future__ import annotations

import torch
from torch import nn

from fcdm.config.averages import power_length
from fcdm.config.schema import Config
from fcdm.engine.snapshots import synthesised
from fcdm.engine.state import create_model, load_weights
from fcdm.engine.weights import read_weights
from fcdm.errors import UserError
from fcdm.runs.weights import Weights


def open_model(weights: Weights, config: Config, device: torch.device) -> nn.Module:
    """The configuration's model, in eval mode, with those of the weights that `evaluation.weights` names.

    Raises UserError where they are of another model, or not there.
    """
    model = create_model(config, device).eval().requires_grad_(False)
    asked = config.evaluation.weights
    length = power_length(asked)
    if length is None:
        load_weights(model, read_weights(weights, model, "model" if asked == "raw" else asked))
    elif weights.run is None or weights.step is None:
        raise UserError(f"{weights.path} is a file: evaluation.weights={asked} is made of a run's snapshots")
    else:
        load_weights(model, synthesised(weights.run.snapshots, weights.step, length).weights)
    return model
