"""The Inception network that FID is defined by: TensorFlow's graph of 2015-12-05, in torch.

It is Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) with the habits of that graph, which every published
FID depends on: 1,008 classes, average pools that leave the padding out, and a max pool in the last block.
Parameter names are those of the public conversion of its weights (`fcdm.features.inception_weights`).
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcdm.errors import UserError
from fcdm.features import Extractor, Features
from fcdm.features.inception_weights import check_weights, find_weights
from fcdm.metrics.float32 import plain_float32

SIDE = 299
POOL = 2048
SPATIAL_CHANNELS = 7
SPATIAL = 17 * 17 * SPATIAL_CHANNELS
CLASSES = 1008
BATCH = 32
"""Images in one forward pass: about 20 MB of activations each."""

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel]
"""(name, output channels, kernel (height, width)) of a convolution."""


class BasicConv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU. Stride 1 keeps the size unless `padding` says otherwise."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: bool = True) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (height // 2, width // 2) if padding and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Chains of convolutions side by side, joined on channels, with a pooled branch last.

    Steps of a chain whose names end in `a` and `b` both read what stands before them. At stride 2 each
    chain's last convolution halves the size, and the pooled branch is the pool alone.
    """

    def __init__(
        self, inputs: int, chains: Sequence[Sequence[Step]], pool: str = "max", pooled: int | None = None
    ) -> None:
        super().__init__()
        self.stride, self.pool = (1, pool) if pooled else (2, "max")
        self.chains: list[tuple[list[str], list[str]]] = []
        self.outputs = pooled or inputs
        for chain in chains:
            channels = inputs
            trunk, fork = [], []
            for name, outputs, kernel in chain:
                last = (name, outputs, kernel) == chain[-1]
                convolution = BasicConv(channels, outputs, kernel, self.stride if last else 1)
                self.add_module(f"branch{name}", convolution)
                if name[-1] in "ab":
                    fork.append(f"branch{name}")
                else:
                    trunk.append(f"branch{name}")
                    channels = outputs
            self.chains.append((trunk, fork))
            self.outputs += sum(outputs for name, outputs, _ in chain if name[-1] in "ab") or channels
        if pooled:
            self.branch_pool = BasicConv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = []
        for trunk, fork in self.chains:
            h = x
            for name in trunk:
                h = self.get_submodule(name)(h)
            joined += [self.get_submodule(name)(h) for name in fork] or [h]
        if self.stride == 2:
            joined.append(F.max_pool2d(x, 3, 2))
        elif self.pool == "max":
            joined.append(self.branch_pool(F.max_pool2d(x, 3, 1, 1)))
        else:
            joined.append(self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        return torch.cat(joined, 1)


def _a(inputs: int, pooled: int) -> Mixed:
    double = [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)]
    return Mixed(inputs, [[("1x1", 64, 1)], [("5x5_1", 48, 1), ("5x5_2", 64, 5)], double], "avg", pooled)


def _b(inputs: int) -> Mixed:
    return Mixed(inputs, [[("3x3", 384, 3)], [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)]])


def _c(inputs: int, width: int) -> Mixed:
    wide, tall = (1, 7), (7, 1)
    single: list[Step] = [("7x7_1", width, 1), ("7x7_2", width, wide), ("7x7_3", 192, tall)]
    double: list[Step] = [("7x7dbl_1", width, 1), ("7x7dbl_2", width, tall), ("7x7dbl_3", width, wide)]
    double += [("7x7dbl_4", width, tall), ("7x7dbl_5", 192, wide)]
    return Mixed(inputs, [[("1x1", 192, 1)], single, double], "avg", 192)


def _d(inputs: int) -> Mixed:
    seven: list[Step] = [("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, 3)]
    return Mixed(inputs, [[("3x3_1", 192, 1), ("3x3_2", 320, 3)], seven])


def _e(inputs: int, pool: str) -> Mixed:
    single: list[Step] = [("3x3_1", 384, 1), ("3x3_2a", 384, (1, 3)), ("3x3_2b", 384, (3, 1))]
    double: list[Step] = [("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3)]
    double += [("3x3dbl_3a", 384, (1, 3)), ("3x3dbl_3b", 384, (3, 1))]
    return Mixed(inputs, [[("1x1", 320, 1)], single, double], pool, 192)


class Inception(nn.Module):
    """Images (n, 3, 299, 299) in [-1, 1) -> pool (n, 2048), spatial (n, 2023), probabilities (n, 1008).

    For the outputs see `Features`. Use in eval mode. 23.9M parameters, 5.7 GMACs an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = BasicConv(32, 64, 3)
        self.Conv2d_3b_1x1 = BasicConv(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv(80, 192, 3, padding=False)
        self.Mixed_5b = _a(192, 32)
        self.Mixed_5c = _a(256, 64)
        self.Mixed_5d = _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b = _c(768, 128)
        self.Mixed_6c = _c(768, 160)
        self.Mixed_6d = _c(768, 160)
        self.Mixed_6e = _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b = _e(1280, "avg")
        self.Mixed_7c = _e(2048, "max")
        self.fc = nn.Linear(POOL, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        # The graph's `mixed_6/conv:0`, the 1x1 branch, comes first among Mixed_6d's channels.
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        pool = x.mean(dim=(2, 3))
        # ADM's Inception Score leaves the bias out. In float64 for free: 2 M products an image.
        logits = pool.double() @ self.fc.weight.double().T
        return pool, spatial, logits.softmax(1).float()


def resize_like_tf1(images: Tensor, side: int = SIDE) -> Tensor:
    """Images (n, c, h, w) float32 -> (n, c, side, side), by TensorFlow 1's `resize_bilinear`, bit for bit.

    Output pixel i lies at i * h / side (neither corners nor centres are aligned), in float32 as there, and no
    blur comes before a reduction. Columns first, then rows.
    """
    return _lerp(_lerp(images, 3, side), 2, side)


def _lerp(x: Tensor, dim: int, size: int) -> Tensor:
    length = x.shape[dim]
    if length == size:
        return x
    position = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(length / size)
    low = position.long()
    high = (low + 1).clamp_max(length - 1)
    share = (position - low).view(-1, *[1] * (3 - dim))
    before = x.index_select(dim, low)
    return before + (x.index_select(dim, high) - before) * share


def load_inception(path: Path) -> Inception:
    """The network with the weights of `path`, float32 on the CPU, in eval mode and frozen.

    UserError for a damaged file, one with code in it, or one of another network (its keys are named).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, where the file is no torch file
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds more than weights, or is no torch file: refused") from error
    except Exception as error:  # whatever damaged bytes make of the unpickler
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({what}): download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: a state dict of tensors was expected, not {type(state).__name__}")
    with torch.device("meta"):
        network = Inception()
    wanted = network.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # of training; some files lack them
    state = {key: value for key, value in state.items() if key not in counters}
    wrong = {
        "missing": sorted(wanted.keys() - state.keys() - counters),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape),
    }
    if any(wrong.values()):
        told = "; ".join(f"{_some(keys)} {what}" for what, keys in wrong.items() if keys)
        raise UserError(f"{path}: not the FID Inception of 2015-12-05: {told}")
    zeros = {key: torch.zeros((), dtype=torch.int64) for key in counters}
    network.load_state_dict({key: value.float() for key, value in state.items()} | zeros, assign=True)
    return network.eval().requires_grad_(False)


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + rest


def open_inception(weights: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Images (n, 3 or 1, h, w) uint8 -> all that the five metrics need, in one pass, BATCH images at a time.

    Any size is resized to 299 as TensorFlow 1 did; grey images are repeated to 3 channels. Float32 whatever
    autocast and TF32 say: batch size and device move a feature by float rounding only. UserError for weights
    that are not found or not right, and for images of other shapes.
    """
    path = find_weights(weights)
    identity = f"inception@{check_weights(path)[:8]}"  # before the file is read: a wrong one is named as that
    return inception_extractor(load_inception(path), identity, torch.device(device))


def inception_extractor(network: Inception, identity: str, device: torch.device) -> Extractor:
    """`open_inception` of a network that is there already, in eval mode."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        if images.dtype != torch.uint8:
            raise TypeError(f"features are of uint8 images (see to_uint8), got {images.dtype}")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UserError(f"Inception reads images (n, 3, h, w) or (n, 1, h, w), got {tuple(images.shape)}")
        parts = []
        with plain_float32(device):
            for part in torch.split(images, BATCH):
                x = (resize_like_tf1(part.to(device).float()) - 128) / 128
                x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
                parts.append(network(x))
        return Features(*(torch.cat(outputs) for outputs in zip(*parts, strict=True)))

    return Extractor(identity, POOL, lambda images: features(images).pool, SPATIAL, CLASSES, features)
