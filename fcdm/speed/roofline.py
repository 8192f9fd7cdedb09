"""What a training step must move and compute: bytes, FLOPs and launches by kind of operation, on torch's meta device.

Every operation is taken on its own, as eager PyTorch runs it on a GPU: it reads its inputs from memory, writes its
outputs, and is one launch. So the sum is what fusion has to beat, and the slowest kind is where to begin (the roofline
of Williams et al. 2009, doi 10.1145/1498765.1498785). bf16 follows CUDA's autocast rules: products in bf16, LayerNorm
in float32, each weight cast once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fcdm.config.schema import Config
from fcdm.cost.model_cost import FLOAT_BYTES
from fcdm.speed.ceilings import Ceilings

KINDS = ("products", "depthwise", "attention", "norms", "elementwise", "copies", "optimiser", "EMA")

ADAMW_ACCESSES = 7
"""Numbers that a fused AdamW reads (weight, gradient, two moments) and writes (weight, two moments) for each weight."""
EMA_ACCESSES = 3
"""Numbers that the average's update reads (average, weight) and writes for each weight."""


@dataclass
class KindOfWork:
    """Of one kind of operation in one training step."""

    launches: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    operations: list[tuple[float, float]] = field(default_factory=list)
    """(bytes, FLOPs) of each launch."""

    def add(self, moved: float, flops: float, launches: int = 1) -> None:
        self.launches += launches
        self.bytes += moved
        self.flops += flops
        self.operations.append((moved, flops))

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time: each operation is bound by its bytes or its FLOPs, whichever take longer."""
        return sum(max(moved / bytes_per_s, flops / flops_per_s) for moved, flops in self.operations)


@dataclass
class Roofline:
    """One training step on `images` images, by kind; only kinds that occur."""

    images: int
    kinds: dict[str, KindOfWork]

    @property
    def launches(self) -> int:
        return sum(amount.launches for amount in self.kinds.values())

    @property
    def bytes(self) -> float:
        return sum(amount.bytes for amount in self.kinds.values())

    @property
    def flops(self) -> float:
        return sum(amount.flops for amount in self.kinds.values())

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time of the step where nothing is fused."""
        return sum(amount.seconds(flops_per_s, bytes_per_s) for amount in self.kinds.values())

    def described(self, ceilings: Ceilings, precision: str) -> dict[str, Any]:
        """As JSON; seconds are the least ones at these ceilings."""
        peaks = ceilings.flops_per_s[precision], ceilings.bytes_per_s
        return {
            "images": self.images,
            "launches": self.launches,
            "bytes": self.bytes,
            "flops": self.flops,
            "seconds": self.seconds(*peaks),
            "kinds": {
                kind: {
                    "launches": amount.launches,
                    "bytes": amount.bytes,
                    "flops": amount.flops,
                    "seconds": amount.seconds(*peaks),
                }
                for kind, amount in self.kinds.items()
            },
        }


def training_roofline(build: Callable[[], nn.Module], config: Config, images: int) -> Roofline:
    """Forward, backward, AdamW and EMA of one step of the configuration's model on so many images.

    build: makes the model; called on the meta device, where nothing is computed.
    """
    side = config.resolution // config.data.downsample
    with torch.device("meta"):
        model = build().train()
        x, t = torch.empty(images, config.data.channels, side, side), torch.empty(images)
        labels = torch.empty(images, dtype=torch.int64)
    counter = _Counter()
    with counter, _AsOnCuda(config.precision == "bf16"):
        output = model(x, t, labels)
        loss = output.float().square().mean()
        loss.backward()
    kinds = {kind: counter.kinds[kind] for kind in KINDS if kind in counter.kinds}
    weights = sum(parameter.numel() for parameter in model.parameters())
    for kind, accesses in (("optimiser", ADAMW_ACCESSES), ("EMA", EMA_ACCESSES)):
        kinds[kind] = KindOfWork()
        kinds[kind].add(accesses * FLOAT_BYTES * weights, 0.0)
    return Roofline(images, kinds)


_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_COPIES = {"_to_copy", "clone", "copy_", "cat"}


def _computes_nothing(func: Any) -> bool:
    """Whether it is a view, whose results alias what it is given without writing to it, or an empty tensor."""
    returns = [result.alias_info for result in func._schema.returns]
    name = func.overloadpacket.__name__
    return "empty" in name or name == "_unsafe_view" or any(alias and not alias.is_write for alias in returns)


class _Counter(TorchDispatchMode):
    """Adds up what passes: one launch for each operation that is no view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: dict[str, KindOfWork] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _computes_nothing(func):
            return out
        name = func.overloadpacket.__name__
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        kind, flops = _kind_and_flops(name, args, outputs)
        moved = sum(_bytes(tensor) for tensor in (*inputs, *outputs))
        self.kinds.setdefault(kind, KindOfWork()).add(moved, flops, _launches(name, outputs))
        return out


def _bytes(tensor: Tensor) -> int:
    """What reading or writing the tensor moves: a broadcast dimension (stride 0) is read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= 1 if stride == 0 else size
    return count * tensor.element_size()


def _launches(name: str, outputs: list[Tensor]) -> int:
    """A convolution's backward is one kernel for each gradient."""
    return len(outputs) if name == "convolution_backward" else 1


def _kind_and_flops(name: str, args: Any, outputs: list[Tensor]) -> tuple[str, float]:
    """FLOPs of products only: 2 for each multiply-accumulate."""
    if name in _PRODUCTS:
        factors = [arg for arg in args if isinstance(arg, Tensor)][-2:]
        return "products", 2.0 * outputs[0].numel() * factors[0].shape[-1]
    if name == "convolution":
        weight, groups = args[1], args[8]
        return _convolution(weight, groups), 2.0 * outputs[0].numel() * weight[0].numel()
    if name == "convolution_backward":
        grad, weight, groups, wanted = args[0], args[2], args[9], args[10]
        return _convolution(weight, groups), sum(wanted[:2]) * 2.0 * grad.numel() * weight[0].numel()
    if "attention" in name:
        # Two products of (N, d) by (d, N) and (N, N) by (N, d) for each head; backward does five (arXiv 2307.08691).
        query, key = [arg for arg in args if isinstance(arg, Tensor) and arg.ndim == 4][:2]
        product = 2.0 * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] * query.shape[3]
        return "attention", (5 if "backward" in name else 2) * product
    if "layer_norm" in name or name in ("linalg_vector_norm", "sum", "mean"):
        return "norms", 0.0
    return ("copies" if name in _COPIES else "elementwise"), 0.0


def _convolution(weight: Tensor, groups: int) -> str:
    return "depthwise" if groups > 1 and weight.shape[1] == 1 else "products"


_LOW = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.matmul, torch.bmm}
_FLOAT32 = {F.layer_norm}


class _AsOnCuda(TorchFunctionMode):
    """What CUDA does and the meta device does not: autocast to bf16 (where asked for), and fused attention."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16
        self.cast: dict[int, Tensor] = {}
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside or not (func in _LOW or func in _FLOAT32):
            return func(*args, **kwargs)
        self.inside = True  # F.conv2d calls torch.conv2d
        try:
            if self.bf16:
                target = torch.bfloat16 if func in _LOW else torch.float32
                args, kwargs = tree_map(lambda leaf: self._to(leaf, target), (args, kwargs))
            if func is F.scaled_dot_product_attention and len(args) == 3 and not kwargs:
                return torch.ops.aten._scaled_dot_product_flash_attention(*args)[0]
            return func(*args, **kwargs)
        finally:
            self.inside = False

    def _to(self, leaf: Any, dtype: torch.dtype) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.dtype == dtype:
            return leaf
        if leaf.is_leaf and leaf.requires_grad:
            return self.cast.setdefault(id(leaf), leaf.to(dtype))
        return leaf.to(dtype)
