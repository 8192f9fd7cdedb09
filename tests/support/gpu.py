"""Where the tests marked gpu run, and what they are made of: networks, batches, how far two results are apart."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fcdm.config.schema import Config
    from fcdm.engine.batches import Batch

FAMILIES = {"fcdm": ("N", "S"), "dit": ("dit/N-2", "dit/S-2")}
"""Of each family the model for a CPU and the one for a GPU."""

ROUNDING = 1e-4
"""What float32 may be off in all: the choice of an algorithm makes 1e-6 to 1e-5, TF32 3e-4 and more."""


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """CUDA where there is one. With FCDM_GPU_TESTS=cpu the CPU, with the smallest models: that tries the tests.

    What compares a GPU with the CPU compares the CPU with itself then.
    """
    import torch

    if os.environ.get("FCDM_GPU_TESTS") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device (FCDM_GPU_TESTS=cpu tries it on the CPU)")
    # As training sets it: cuBLAS reads it once, and a resume is bit for bit with a fixed workspace only.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", 0)


@pytest.fixture
def cuda(gpu: torch.device) -> torch.device:
    """As `gpu`, for what a CPU does not have."""
    if gpu.type != "cuda":
        pytest.skip("of CUDA alone")
    return gpu


def network_config(family: str, device: torch.device, *overrides: str) -> Config:
    """The family's S on 32 x 32 latents on a GPU, its N on 8 x 8 pixels on a CPU; a batch of 16, not compiled."""
    from tests.support.commands import composed

    return composed(f"model={FAMILIES[family][device.type == 'cuda']}", "compile=false", "batch_size=16", *overrides)


def batch_of(config: Config, model: nn.Module, device: torch.device, step: int = 0) -> Batch:
    """A batch of noise for data, the same numbers on every device to float rounding."""
    import torch

    from fcdm.diffusion import make_objective
    from fcdm.engine.batches import Batch
    from fcdm.randomness import Purpose, integers, normal, uniform

    places, side = torch.arange(config.batch_size, device=device), config.resolution // config.data.downsample
    shape = (config.data.channels, side, side)
    x0, noise = (normal(7, purpose, step, places, shape) for purpose in (Purpose.POSTERIOR, Purpose.NOISE))
    labels = integers(7, Purpose.SAMPLE_LABEL, step, places, config.data.classes)
    embedders = int(model.label_embedders)  # type: ignore[arg-type]
    if embedders > 1:
        labels = labels[:, None].expand(-1, embedders).contiguous()
    u = uniform(7, Purpose.TIMESTEP, step, places, ())
    return Batch(0.5 * x0, labels, make_objective(config.diffusion).times_in_bin(0, 1, u), noise)


def stir(modules: Iterable[nn.Module], scale: float = 0.02) -> None:
    """Moves all weights, those of all modules alike: an untrained model answers 0, and most gradients are 0."""
    import torch

    for module in modules:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.device)


def apart(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """|found - expected| / |expected|, of all the numbers of all tensors together."""
    pairs = [(a.detach().cpu().double(), b.detach().cpu().double()) for a, b in zip(found, expected, strict=True)]
    difference = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
    size = math.sqrt(sum(float(b.square().sum()) for _, b in pairs))
    assert math.isfinite(difference)
    assert size > 0
    return difference / size


def stirred(config: Config, device: torch.device) -> nn.Module:
    """A model in training, away from where it starts."""
    from fcdm.engine.state import create_model

    model = create_model(config, device).train()
    stir([model])
    return model


def answer(model: nn.Module, config: Config, device: torch.device, of: nn.Module | None = None) -> tuple[Tensor, ...]:
    """Output, loss and all gradients of the model; of: whose weights they are, where it is wrapped."""
    from fcdm.diffusion import make_objective
    from fcdm.engine.environment import autocast, matmul_precision

    objective, owner = make_objective(config.diffusion), of or model
    batch = batch_of(config, owner, device)
    owner.zero_grad(set_to_none=True)
    x_t = objective.corrupt(batch.x0, batch.t, batch.noise)
    with matmul_precision(config.precision):
        with autocast(config.precision, device):
            output = model(x_t, batch.t, batch.labels)
        loss = objective.loss(output, batch.x0, x_t, batch.t, batch.noise).loss.mean()
        loss.backward()  # type: ignore[no-untyped-call]
    return output, loss, *(weight.grad for weight in owner.parameters() if weight.grad is not None)


def compare(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], most: float) -> None:
    """Two of `answer`: nowhere further apart than `most`."""
    assert apart(found[:1], expected[:1]) < most
    assert apart(found[1:2], expected[1:2]) < most
    assert apart(found[2:], expected[2:]) < most


@contextlib.contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """Where this is a GPU: RuntimeError for what makes the host wait for it."""
    import torch

    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
