"""The networks on a GPU: what the CPU answers, compiled, with activation checkpointing, in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.diffusion import make_objective
from fcdm.engine.environment import autocast, matmul_precision
from fcdm.engine.state import create_model
from tests.support.gpu import FAMILIES, apart, batch_of, network_config, stir

pytestmark = pytest.mark.gpu
ROUNDING = 1e-4
"""What float32 may be off in all: the choice of an algorithm makes 1e-6 to 1e-5, TF32 3e-4 and more."""


def stirred(config: Config, device: torch.device) -> nn.Module:
    model = create_model(config, device).train()
    stir([model])
    return model


def answer(model: nn.Module, config: Config, device: torch.device, of: nn.Module | None = None) -> tuple[Tensor, ...]:
    """Output, loss and all gradients of the model; of: whose weights they are, where it is wrapped."""
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
    assert apart(found[:1], expected[:1]) < most
    assert apart(found[1:2], expected[1:2]) < most
    assert apart(found[2:], expected[2:]) < most


@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_are_the_cpus(gpu: torch.device, family: str) -> None:
    config = network_config(family, gpu, "precision=fp32", "batch_size=4")
    cpu = torch.device("cpu")
    compare(
        answer(stirred(config, gpu), config, gpu),
        answer(stirred(config, cpu), config, cpu),
        ROUNDING,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near_float32(gpu: torch.device, family: str) -> None:
    full, half = (network_config(family, gpu, f"precision={name}") for name in ("fp32", "bf16"))
    model = stirred(full, gpu)
    expected = [tensor.clone() for tensor in answer(model, full, gpu)]
    found = answer(model, half, gpu)
    assert 1e-4 < apart(found[:1], expected[:1]) < 0.05
    assert apart(found[2:], expected[2:]) < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_no_gradient(gpu: torch.device, family: str, precision: str) -> None:
    found = [
        answer(stirred(config, gpu), config, gpu)
        for again in ("false", "true")
        for config in [network_config(family, gpu, f"precision={precision}", f"activation_checkpointing={again}")]
    ]
    # The same operations again: what is left is the order in which a GPU adds.
    compare(found[1], found[0], ROUNDING if precision == "fp32" else 0.01)


@pytest.mark.filterwarnings("default")  # torch's compiler and Triton warn of their own doings
@pytest.mark.parametrize(("family", "precision"), [("fcdm", "fp32"), ("dit", "fp32"), ("fcdm", "bf16")])
def test_compiled_is_eager(
    gpu: torch.device, family: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the smallest models, since compiling takes time; on a CPU without its C++ compiler, which takes most of it."""
    if gpu.type == "cpu" and precision == "bf16":
        pytest.skip("on a CPU in float32 alone: another half minute tells nothing more")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    less = {"fcdm": ("model=N", "model.width=8"), "dit": ("model=dit/N-2", "model.depth=1")}[family]
    config = network_config(family, gpu, *less, f"precision={precision}", "resolution=8")
    model = stirred(config, gpu)
    expected = tuple(tensor.detach().clone() for tensor in answer(model, config, gpu))
    backend = "inductor" if gpu.type == "cuda" else "aot_eager"
    try:
        found = answer(torch.compile(model, fullgraph=True, backend=backend), config, gpu, of=model)  # type: ignore[arg-type]
    finally:
        torch.compiler.reset()
    # In half precision eager rounds after each operation, and what is fused does not.
    compare(found, expected, ROUNDING if precision == "fp32" else 0.1)
