"""Models with weights found on disk: what to start from, what to evaluate, and the weaker model that guides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from fcdm.config.check import config_from
from fcdm.config.ema_profiles import Kept, power_length
from fcdm.config.schema import Config
from fcdm.engine.ema_snapshots import Synthesised, synthesised
from fcdm.engine.read_weights import read_weights
from fcdm.engine.state import create_model, load_weights
from fcdm.errors import UserError
from fcdm.runs.checkpoints import CannotEvaluate
from fcdm.runs.find_weights import Weights, find_weights
from fcdm.runs.folder import frozen_science


def open_model(weights: Weights, config: Config, device: torch.device) -> nn.Module:
    """The configuration's model, in eval mode, with those of the weights that `evaluation.weights` names.

    Raises UserError where they are of another model, or not there.
    """
    model = create_model(config, device).eval().requires_grad_(False)
    load_named(model, weights, config.evaluation.weights, config.evaluation.weights_snapshots)
    return model


def load_named(model: nn.Module, weights: Weights, name: str, snapshots: str | None) -> Synthesised | None:
    """Load `ema`, `raw` or `power:0.08` of what was found into the model; how the last was made, else None.

    snapshots: of which an average is made (`fcdm.config.ema_profiles.Kept`). Raises UserError where they are of another
    model, CannotEvaluate where they are not there.
    """
    length = power_length(name)
    if length is None:
        load_weights(model, read_weights(weights, model, group_of(name)))
        return None
    if weights.run is None or weights.step is None:
        raise UserError(f"{weights.path} is a file: {name} is made of a run's snapshots")
    if snapshots is None:
        raise UserError(f"{name}: the job does not say of which snapshots: give the command again")
    made = synthesised(weights.run.snapshots, weights.step, length, Kept.of(snapshots))
    load_weights(model, made.weights)
    return made


def group_of(name: str) -> str:
    """The group of a checkpoint that holds `ema` or `raw` weights."""
    return "model" if name == "raw" else "ema"


def initial_weights(config: Config, model: nn.Module) -> dict[str, Tensor] | None:
    """The weights that `init_from` names, in `model`'s names, on the CPU; None where it names none.

    Raises UserError where they are gone, are no longer what they were at submission, or do not fit.
    """
    if config.init_from is None:
        return None
    weights = _again("init_from", config.init_path, config.init_from)
    try:
        return read_weights(weights, model, group_of(config.init_from_weights), any_side=True)
    except UserError as error:
        raise UserError(f"init_from: {error}") from None


def weaker_model(config: Config, device: torch.device) -> nn.Module | None:
    """The model that `evaluation.guidance_weak` names, in eval mode on `device`; None where nothing is guided by one.

    A run's checkpoint brings its model's size along; a file is of the same model. Raises CannotEvaluate where it is
    gone, is no longer what it was at submission, or does not fit.
    """
    asked = config.evaluation
    if asked.guidance_weak is None or asked.guidance_scale == 1.0:
        return None
    try:
        weights = _again("evaluation.guidance_weak", asked.guidance_weak_path, asked.guidance_weak)
        model = create_model(weak_config(config, weights), device).eval().requires_grad_(False)
        load_named(model, weights, asked.guidance_weak_weights, asked.guidance_weak_snapshots)
    except UserError as error:
        raise CannotEvaluate(f"evaluation.guidance_weak: {error}") from None
    return model


def weak_config(config: Config, weights: Weights) -> Config:
    """`config` with the model of the run that the weights are of."""
    if weights.run is None:
        return config
    frozen = frozen_science(weights.run.folder)
    values = dataclasses.asdict(config)
    values["model"] = frozen["model"]
    values["diffusion"] |= {"learn_sigma": frozen["diffusion"]["learn_sigma"]}
    return config_from(values)


def _again(key: str, path: str | None, identity: str) -> Weights:
    """What was found at submission, if it is still that. Raises UserError."""
    if path is None or not Path(path).exists():
        raise UserError(f"{key}: {path} is gone, and it is needed: put it back, and the same command goes on")
    weights = find_weights(path)
    if weights.id != identity:
        raise UserError(f"{key}: {path} was {identity} at submission and is {weights.id} now: put back what it was")
    return weights
