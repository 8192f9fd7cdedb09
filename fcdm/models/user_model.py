"""Building a user's own model: imported, called, and looked over; whatever goes wrong is one line with their file's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from fcdm.config.model_checks import CHECKPOINTING, GIVEN
from fcdm.config.schema import CustomConfig
from fcdm.config.user_model_source import ModelSource, find_source
from fcdm.errors import UserError

STORED = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types that a checkpoint can hold."""


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
    source = find_source(config.target)
    factory = load_factory(config, source)
    keywords: dict[str, Any] = {
        "channels": channels,
        "out_channels": channels * (2 if learn_sigma else 1),
        "side": side,
        "classes": classes,
        **config.options,
    }
    if activation_checkpointing:
        keywords[CHECKPOINTING] = True
    _check_keywords(config.target, factory, keywords)
    try:
        model = factory(**keywords)
    except Exception as error:
        refuse(config.target, "cannot be built", error, source)
    _look_over(config.target, model, classes)
    assert isinstance(model, nn.Module)
    return model


def verify(target: str, sha256: str) -> None:
    """Import the model's code and raise UserError where that does not work or it is not the code of this hash."""
    config = CustomConfig(name="", target=target, source=sha256)
    load_factory(config, find_source(target))


def refuse(target: str, what: str, error: BaseException, source: ModelSource) -> NoReturn:
    """Raise UserError: `model.target=my_unet.MyUNet cannot be built: KeyError: 'x' (my_unet.py:12)`."""
    if isinstance(error, UserError):
        raise error
    where = _place(error, source)
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    if len(text) > 400:
        text = f"{text[:400]} ..."
    raise UserError(
        f"model.target={target} {what}: {type(error).__name__}: {text}{f' ({where})' if where else ''}"
    ) from error


def _place(error: BaseException, source: ModelSource) -> str:
    """`/home/me/my_unet.py:12`: the innermost line of the user's own on the way to the error, or nothing."""
    own = {path.resolve() for path in source.files.values()}
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() in own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def load_factory(config: CustomConfig, source: ModelSource) -> Callable[..., Any]:
    """What `model.target` names. Raises UserError."""
    target = config.target
    if config.source is not None and source.sha256 != config.source:
        raise UserError(
            f"model.target={target}: its code has changed ({source.file}; sha256 {source.sha256[:8]}, not "
            f"{config.source[:8]}): put it back, or give the command again: with other code it is another run"
        )
    try:
        module = importlib.import_module(source.module)
    except (Exception, SystemExit) as error:
        refuse(target, "cannot be imported", error, source)
    found = Path(getattr(module, "__file__", None) or "nowhere")
    if found.resolve() != source.file.resolve():
        raise UserError(
            f"model.target={target}: another module of the name {source.module} is loaded already ({found}), so "
            f"{source.file} needs another name"
        )
    value: Any = module
    for name in source.attribute.split("."):
        if not hasattr(value, name):
            near = difflib.get_close_matches(name, [n for n in vars(value) if not n.startswith("_")], n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"model.target={target}: {source.file} has no {name}{hint}")
        value = getattr(value, name)
    if not callable(value):
        raise UserError(f"model.target={target} is a {type(value).__name__}: it must be a class or a function")
    return value  # type: ignore[no-any-return]


def _check_keywords(target: str, factory: Callable[..., Any], keywords: dict[str, Any]) -> None:
    """Raise UserError where the constructor takes other keywords than it would be given."""
    name = target.rsplit(".", 1)[-1]
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return  # written in C, say: then calling it tells
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        taken = set(keywords)
    else:
        taken = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for keyword in keywords:
        if keyword in taken:
            continue
        own = sorted(taken - {*GIVEN, CHECKPOINTING})
        if keyword in GIVEN:
            raise UserError(
                f"model.target={target}: {name} must take the keywords {', '.join(GIVEN)}: it takes no {keyword}"
            )
        if keyword == CHECKPOINTING:
            raise UserError(f"{CHECKPOINTING}=true: {name} takes no keyword {CHECKPOINTING}, so it cannot be asked to")
        near = difflib.get_close_matches(keyword, own, n=1, cutoff=0.6)
        hint = f"did you mean model.options.{near[0]}?" if near else f"it takes {', '.join(own) or 'none'}"
        raise UserError(f"model.options.{keyword}: {name} takes no such option; {hint}")
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in keywords
    ]
    if missing:
        raise UserError(
            f"model.options.{missing[0]} has no value, and {name} needs one: say +model.options.{missing[0]}=..."
        )


def _look_over(target: str, model: object, classes: int) -> None:
    """Raise UserError for what could not be trained, saved and continued."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model.target={target} gives a {type(model).__name__}, no torch.nn.Module")
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
