"""The networks on a GPU: what the CPU answers, with activation checkpointing, in half precision."""

from __future__ import annotations

import pytest
import torch

from tests.support.gpu import FAMILIES, ROUNDING, answer, apart, compare, network_config, stirred

pytestmark = pytest.mark.gpu


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
