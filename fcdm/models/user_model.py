"""Building a user's own model: called, and looked over; whatever goes wrong is one line."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from fcdm.config.load_code import build
from fcdm.config.schema import CustomConfig
from fcdm.config.user_code import MODEL, UserCode
from fcdm.errors import UserError

STORED = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types that a checkpoint can hold."""

INSTEAD = {
    **dict.fromkeys(
        ("loss", "compute_loss", "training_loss", "get_loss", "loss_fn", "criterion", "p_losses", "training_losses"),
        "the loss is the objective's: bring one of your own by diffusion.target",
    ),
    **dict.fromkeys(
        ("training_step", "train_step", "validation_step", "test_step", "predict_step", "fit", "optimizer_step"),
        "the training loop is fcdm's: bring a loss by diffusion.target, an optimiser by optimiser.target",
    ),
    **dict.fromkeys(
        ("configure_optimizers", "configure_optimisers", "configure_optimizer", "configure_optimiser"),
        "bring an optimiser by optimiser.target",
    ),
    **dict.fromkeys(
        ("sample", "generate", "p_sample", "p_sample_loop", "ddim_sample"),
        "samplers are the objective's: bring one of your own by diffusion.target",
    ),
    **dict.fromkeys(
        ("train_dataloader", "val_dataloader", "prepare_data", "setup_data"), "bring a data set by data.target"
    ),
}
"""Methods that other programs call and this one would not -> what to bring instead."""
LIBRARIES = ("torch", "lightning", "pytorch_lightning", "transformers", "diffusers", "timm", "builtins", "fcdm")
"""What their base classes have is not the user's saying."""


def code_of_model(config: CustomConfig) -> UserCode:
    return UserCode(MODEL, config.target, config.options, config.source)


def build_custom(
    config: CustomConfig,
    *,
    channels: int,
    side: int,
    classes: int,
    learn_sigma: bool,
    activation_checkpointing: bool = False,
) -> nn.Module:
    """The user's module, as `fcdm.models.build_model` gives ours; on torch's default device.

    Raises UserError: the source is not there or not what the configuration was frozen with, it cannot be imported or
    built, or it is no module that can be trained and saved.
    """
    given: dict[str, Any] = {
        "channels": channels,
        "out_channels": channels * (2 if learn_sigma else 1),
        "side": side,
        "classes": classes,
        **({"activation_checkpointing": True} if activation_checkpointing else {}),
    }
    model = build(code_of_model(config), given)
    _look_over(config.target, model, classes)
    assert isinstance(model, nn.Module)
    return model


def _look_over(target: str, model: object, classes: int) -> None:
    """Raise UserError for what could not be trained, saved and continued."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model.target={target} gives a {type(model).__name__}, no torch.nn.Module")
    refuse_uncalled(target, type(model))
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(f"model.target={target}: {name} has no shape yet (a lazy layer): say its sizes")
        if parameter.dtype != torch.float32:
            raise UserError(f"model.target={target}: {name} is {parameter.dtype}: weights are kept in float32")
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"model.target={target} has no weights to train")
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in STORED:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise UserError(f"model.target={target}: {name} is {kind}, which a checkpoint cannot hold")
    if getattr(model, "null_class", classes) != classes:
        raise UserError(f"model.target={target}: null_class is {model.null_class}: the null class is {classes}")
    model.null_class = classes  # type: ignore[assignment]  # torch's stub knows of tensors and modules only
    embedders = getattr(model, "label_embedders", 1)
    if type(embedders) is not int or embedders < 1:
        raise UserError(f"model.target={target}: label_embedders is {embedders!r}: a number of at least 1")
    model.label_embedders = embedders  # type: ignore[assignment]
    model.is_stochastic = True  # type: ignore[assignment]  # for all that is known: dropout, say


def refuse_uncalled(target: str, model: type) -> None:
    """Raise UserError for a method that the user wrote for another program: nothing here would call it."""
    for name, instead in INSTEAD.items():
        for owner in model.__mro__:
            if name in vars(owner) and owner.__module__.split(".")[0] not in LIBRARIES:
                raise UserError(
                    f"model.target={target}: nothing would call {owner.__name__}.{name}: {instead} "
                    f"(docs/bring_your_own.md), and remove it, or call it _{name} where forward uses it"
                )
