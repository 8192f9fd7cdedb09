"""The optimiser: AdamW, or a user's own; and its state as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fcdm.config.load_code import build, refuse
from fcdm.config.schema import OptimiserConfig
from fcdm.config.user_code import OPTIMISER, UserCode
from fcdm.errors import UserError
from fcdm.models.user_model import STORED

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state besides the step, which is the run's."""
STATE = "optimiser"
"""Of a checkpoint: the group of tensors, and of a user's own the key of what is no tensor."""


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> Optimizer:
    """The optimiser of the model's weights, before its first step. Raises UserError for a user's own."""
    if config.target is None:
        return torch.optim.AdamW(
            model.parameters(),
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=True,
        )
    code = UserCode(OPTIMISER, config.target, config.options, config.source)
    return own_optimiser(code, [weight for weight in model.parameters() if weight.requires_grad], config.lr)


def own_optimiser(code: UserCode, weights: list[nn.Parameter], lr: float) -> Optimizer:
    """What the target gives of these weights. Raises UserError for what cannot train them."""
    found = build(code, {"lr": lr}, weights)
    if not isinstance(found, Optimizer):
        raise UserError(f"{code} gives a {type(found).__name__}, no torch.optim.Optimizer")
    mine = [weight for group in found.param_groups for weight in group["params"]]
    if len({id(weight) for weight in mine}) != len(weights):
        raise UserError(f"{code} takes {len(mine)} of the {len(weights)} weights: all of them are to be trained")
    if not all(isinstance(group.get("lr"), float | int | Tensor) for group in found.param_groups):
        raise UserError(f"{code}: a group of weights has no lr: optimiser.warmup_steps could not change it")
    return found


def rates_of(optimiser: Optimizer) -> list[float]:
    """The learning rate of each group of weights, as it was made."""
    return [float(group["lr"]) for group in optimiser.param_groups]


def packed(optimiser: Optimizer, model: nn.Module, own: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the optimiser, as tensors by name and as what is no tensor (JSON).

    own: it is the user's, whose state may be anything; else AdamW's two moments. Raises UserError for what a checkpoint
    cannot hold.
    """
    tensors: dict[str, Tensor] = {}
    if own:
        return tensors, {STATE: pack(optimiser.state_dict(), STATE, tensors)}
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            if parameter in optimiser.state:
                tensors[f"{name}.{moment}"] = optimiser.state[parameter][moment]
    return tensors, {}


def restore(
    optimiser: Optimizer,
    model: nn.Module,
    own: bool,
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    step: int,
) -> None:
    """Put the state of a checkpoint of `step` into an optimiser that was made anew."""
    if own:
        _load(optimiser, unpacked(extra[STATE], tensors))
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # a user's model may keep some weights as they are
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{moment: torch.empty_like(parameter).copy_(tensors[f"{name}.{moment}"]) for moment in MOMENTS},
            }


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Nested plain values and tensors as JSON, the tensors by name; floats by their bits."""
    if isinstance(value, Tensor):
        if value.dtype not in STORED or value.layout != torch.strided:
            raise UserError(f"the optimiser's {name} is a {value.dtype} tensor that a checkpoint cannot hold")
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "_"
        tensors[name] = value.detach()
        return {"tensor": name}
    if value is None or type(value) in (bool, int, str):
        return {"value": value}
    if type(value) is float:
        return {"float": value.hex()}
    if type(value) in (list, tuple):
        parts = [pack(part, f"{name}.{at}", tensors) for at, part in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, Mapping) and all(type(key) in (int, str) for key in value):
        return {"dict": [[key, pack(part, f"{name}.{key}", tensors)] for key, part in value.items()]}
    raise UserError(
        f"the optimiser's {name} is a {type(value).__name__}, which a checkpoint cannot hold: tensors, numbers, texts, "
        "lists, tuples and dictionaries can be"
    )


def unpacked(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    ((kind, value),) = content.items()
    if kind == "tensor":
        return tensors[value].clone()
    if kind == "float":
        return float.fromhex(value)
    if kind in ("list", "tuple"):
        parts = [unpacked(part, tensors) for part in value]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {key: unpacked(part, tensors) for key, part in value}
    return value


def _load(optimiser: Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict`, and every tensor of the type that it had: torch makes them all of the weights' type."""
    optimiser.load_state_dict(state)
    if type(optimiser).load_state_dict is not Optimizer.load_state_dict:
        return  # it knows itself
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for weight, number in zip(weights, [n for group in state["param_groups"] for n in group["params"]], strict=True):
        if number in state["state"]:
            optimiser.state[weight] = _exact(optimiser.state[weight], state["state"][number], weight)


def _exact(loaded: Any, saved: Any, weight: Tensor) -> Any:
    if isinstance(saved, Tensor):
        # In the weight's memory format, where it has its shape: what is summed in another order is rounded otherwise.
        like = torch.empty_like(weight, dtype=saved.dtype) if saved.shape == weight.shape else torch.empty_like(saved)
        return like.to(loaded.device).copy_(saved)
    if isinstance(saved, list | tuple):
        return type(saved)(_exact(a, b, weight) for a, b in zip(loaded, saved, strict=True))
    if isinstance(saved, dict):
        return {key: _exact(loaded[key], part, weight) for key, part in saved.items()}
    return saved


def try_optimiser(code: UserCode, *, lr: float) -> None:
    """Train some weights, stop, go on from the state: the bits of an undisturbed training. Raises UserError."""
    undisturbed = _Trial(code, lr)
    undisturbed.steps(0, 4)
    first = _Trial(code, lr)
    first.steps(0, 2)
    tensors, extra = packed(first.optimiser, first.model, True)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    resumed = _Trial(code, lr)
    resumed.model.load_state_dict(first.model.state_dict())
    try:
        restore(resumed.optimiser, resumed.model, True, tensors, extra, 2)
    except Exception as error:
        refuse(code, "cannot be continued from its state", error)
    resumed.steps(2, 4)
    before = _Trial(code, lr).model.state_dict()
    for name, weight in undisturbed.model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise UserError(f"{code} makes weights that are not finite at optimiser.lr={lr:g}, of gradients of about 1")
        if torch.equal(weight, before[name]):
            raise UserError(f"{code} does not move a weight of shape {tuple(weight.shape)} in four steps")
        if not torch.equal(weight, resumed.model.state_dict()[name]):
            raise UserError(
                f"{code}: a resume would not be bit for bit: all that it remembers must be in self.state or in "
                "self.param_groups, as torch's optimisers have it, or in a state_dict() of its own"
            )


class _Trial:
    """Some weights, the same each time, and the optimiser of them."""

    def __init__(self, code: UserCode, lr: float) -> None:
        self.code = code
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.ModuleList([nn.Linear(8, 4), nn.Conv2d(4, 2, 3), nn.Embedding(5, 8), nn.GroupNorm(1, 4)])
        self.optimiser = own_optimiser(code, list(self.model.parameters()), lr)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(step)
                for weight in self.model.parameters():
                    weight.grad = torch.randn_like(weight)
                try:
                    self.optimiser.step()
                    self.optimiser.zero_grad(set_to_none=True)
                except Exception as error:
                    refuse(self.code, "cannot make a step", error)
