"""What a module costs and whether it can be trained here, by running it on torch's meta device, which computes nothing.

MACs are counted in the forward pass only (FlopCounterMode's backward ignores groups) and not on CPUs (whose fused
attention counts as nothing); memory is what autograd keeps (`saved_tensors_hooks`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fcdm.config.code_source import CodeSource, find_source
from fcdm.config.load_code import load_factory, refuse
from fcdm.config.schema import CustomConfig
from fcdm.errors import UserError
from fcdm.models.user_model import build_custom, code_of_model

FLOAT_BYTES = 4
SMALL_MACS, SMALL_PARAMETERS = 2e9, 5e7
"""Below both, a real forward pass on the CPU takes about a second: then it is tried as well."""


@dataclass(frozen=True)
class Question:
    """A model on one kind of input: all that its cost depends on."""

    model: CustomConfig
    channels: int
    side: int
    classes: int
    learn_sigma: bool
    activation_checkpointing: bool = False
    conditions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Name -> shape of what is given besides for each image (`data.conditions`)."""

    def build(self) -> nn.Module:
        return build_custom(
            self.model,
            channels=self.channels,
            side=self.side,
            classes=self.classes,
            learn_sigma=self.learn_sigma,
            activation_checkpointing=self.activation_checkpointing,
        )


@dataclass(frozen=True)
class Measured:
    """The cost of one image. `saved_elements`: float32 numbers (or as many bytes) kept for backward."""

    parameters: int
    forward_macs: int
    saved_elements: int
    device: str
    """Where it ran: `meta`, or `cpu` for a model that meta cannot run."""


def measure(question: Question) -> Measured:
    """Build the model, run it forward and backward, and count. Leaves torch's random state as it was.

    Raises UserError for a model that cannot be built, run or trained, in one line, with the user's file and line.
    """
    code, source = code_of_model(question.model), find_source(question.model.target)
    load_factory(code, source)  # what modules make when they are imported is not to be made on meta
    failure: Exception | None = None
    # On meta nothing is computed and nothing can be read; a constructor or a forward that reads values needs more.
    for built_on, runs_on in (("meta", "meta"), ("cpu", "meta"), ("cpu", "cpu")):
        try:
            with torch.random.fork_rng(devices=[]):
                with torch.device(built_on):
                    model = question.build()
                found = _measure(question, model.to(runs_on), runs_on)
                if runs_on == "meta" and found.forward_macs < SMALL_MACS and found.parameters < SMALL_PARAMETERS:
                    _forget(source)
                    _forward(question, question.build(), 2, torch.int64, "cpu")
            return found
        except UserError as error:
            if error.__cause__ is None:  # a refusal of ours; the user's own error may be meta's fault
                raise
            failure = error
        except Exception as error:
            failure = error
        _forget(source)
    assert failure is not None
    return refuse(code, "cannot be run", failure, source)


def _forget(source: CodeSource) -> None:
    """Import the user's modules anew: they may keep tensors of the device before, such as a table that they cache."""
    files = {str(path.resolve()) for path in source.files.values()}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and str(Path(file).resolve()) in files:
            del sys.modules[name]


def _measure(question: Question, model: nn.Module, device: str) -> Measured:
    _check_conditions(question, model)
    model.train()
    with contextlib.ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))
        if device == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        _forward(question, model, 1, torch.float32, device)
    macs = counter.get_total_flops() // 2
    if macs == 0:
        raise UserError(
            f"model.target={question.model.target}: no convolution, matrix product or attention of it can be counted, "
            "so nothing can be said of its cost"
        )
    _check_training(question, model, device)
    two, three = (_saved_bytes(question, model, count, device) for count in (2, 3))
    return Measured(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        forward_macs=macs,
        saved_elements=max(0, three - two) // FLOAT_BYTES,
        device=device,
    )


def _check_conditions(question: Question, model: nn.Module) -> None:
    """Raise UserError where forward takes no keyword that the data gives."""
    taken = inspect.signature(model.forward).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for name in question.conditions:
        if name not in taken:
            raise UserError(
                f"model.target={question.model.target}: forward takes no keyword {name}, which data.conditions gives: "
                f"forward(self, x, t, labels, {', '.join(question.conditions)})"
            )


def _forward(question: Question, model: nn.Module, count: int, time_type: torch.dtype, device: str) -> Tensor:
    """(count, C, side, side) of timesteps and labels as training gives them; raises UserError for another shape."""
    target, channels, side = question.model.target, question.channels, question.side
    x = torch.randn(count, channels, side, side, device=device)
    t = torch.arange(count, device=device).to(time_type)
    columns = int(model.label_embedders)  # type: ignore[arg-type]  # build_custom sees to it
    columns_shape = (count,) if columns == 1 or time_type == torch.float32 else (count, columns)
    labels = torch.full(columns_shape, question.classes, dtype=torch.int64, device=device)
    labels[0] = 0
    given = {name: torch.randn(count, *shape, device=device) for name, shape in question.conditions.items()}
    with _label_tables_checked(question, model, labels):
        out = model(x, t, labels, **given)
    wanted = (count, channels * (2 if question.learn_sigma else 1), side, side)
    if not isinstance(out, Tensor):
        raise UserError(f"model.target={target} gives a {type(out).__name__}, not one tensor of shape {wanted}")
    if tuple(out.shape) != wanted:
        raise UserError(
            f"model.target={target} gives shape {tuple(out.shape)} for input {tuple(x.shape)}; it must be {wanted}: "
            f"out_channels={wanted[1]}, and the input's side"
        )
    if not out.is_floating_point():
        raise UserError(f"model.target={target} gives {out.dtype}, not floating point numbers")
    return out


@contextlib.contextmanager
def _label_tables_checked(question: Question, model: nn.Module, labels: Tensor) -> Any:
    """Raise UserError for a label table without a row for the null class; on a GPU that would be a broken kernel."""

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Embedding)
        reads_labels = arguments and isinstance(arguments[0], Tensor) and _storage(arguments[0]) == _storage(labels)
        if reads_labels and module.num_embeddings <= question.classes:
            raise UserError(
                f"model.target={question.model.target}: its label table has {module.num_embeddings} rows; labels go "
                f"from 0 to {question.classes}, the null class, so it needs classes + 1 = {question.classes + 1}"
            )

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_training(question: Question, model: nn.Module, device: str) -> None:
    """Raise UserError for state outside the weights, and for weights that training would never move."""
    target = question.model.target
    try:
        copy.deepcopy(model)
    except Exception as error:
        code = code_of_model(question.model)
        refuse(code, "cannot be copied, as the average of its weights (EMA) must be", error)
    before = {name: (buffer, buffer._version) for name, buffer in model.named_buffers()}
    out = _forward(question, model, 2, torch.int64, device)
    for name, buffer in model.named_buffers():
        if name not in before or before[name][0] is not buffer or before[name][1] != buffer._version:
            raise UserError(
                f"model.target={target}: the buffer {name} changes in training (as BatchNorm's do): the average of the "
                "weights (EMA) would not know it, and it would depend on micro_batch; use GroupNorm or LayerNorm"
            )
    if not out.requires_grad:
        raise UserError(f"model.target={target}: its output does not depend on its weights by any gradient")
    out.float().sum().backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        raise UserError(
            f"model.target={target}: {idle[0]}{more} takes no part in the output, so training would never move it: "
            "leave it out, or set requires_grad_(False)"
        )
    model.zero_grad(set_to_none=True)


def _saved_bytes(question: Question, model: nn.Module, count: int, device: str) -> int:
    """Bytes that autograd keeps for the backward pass of `count` images, each storage once; without the weights."""
    mine = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors too, so that no storage's address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in mine:
            kept[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = _forward(question, model, count, torch.int64, device)
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
