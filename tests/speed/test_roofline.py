"""The roofline: closed forms of bytes, FLOPs and launches, and the cost's own FLOPs of whole models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.config.shape import shape_of
from fcdm.models import build_model
from fcdm.runs.run_cost import run_cost
from fcdm.speed.ceilings import Ceilings
from fcdm.speed.roofline import Roofline, training_roofline
from tests.support.commands import composed

IMAGES, CHANNELS, SIDE = 3, 4, 8
PIXELS = IMAGES * CHANNELS * SIDE * SIDE


def roofline(model: type[nn.Module] | Any, precision: str = "fp32") -> Roofline:
    config = composed("model=S", f"precision={precision}", f"resolution={8 * SIDE}")
    return training_roofline(model, config, IMAGES)


class Scale(nn.Module):
    """One elementwise operation forward: x * weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIDE))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x * self.weight


class Pointwise(nn.Module):
    """One Linear over the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE, 2 * SIDE, bias=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.linear(x)


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 7, padding=3, groups=CHANNELS, bias=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.conv(x)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        q = x * self.scale
        return F.scaled_dot_product_attention(q, q, q)


def test_a_linear_moves_and_computes_what_its_matrices_say() -> None:
    rows = IMAGES * CHANNELS * SIDE
    products = roofline(Pointwise).kinds["products"]
    inputs, outputs, weights = rows * SIDE, rows * 2 * SIDE, 2 * SIDE * SIDE
    # Forward; and the weight's gradient: nothing wants that of the input.
    assert products.launches == 2
    assert products.flops == 2 * 2 * rows * SIDE * 2 * SIDE
    assert products.bytes == 4 * 2 * (inputs + outputs + weights)


def test_bf16_halves_the_products_bytes_and_casts_the_weight_once() -> None:
    whole, half = roofline(Pointwise), roofline(Pointwise, "bf16")
    assert half.kinds["products"].bytes == whole.kinds["products"].bytes / 2
    assert half.kinds["products"].flops == whole.kinds["products"].flops
    assert half.kinds["copies"].launches > 0


def test_a_depthwise_convolution_is_counted_by_its_groups_also_backward() -> None:
    (kind,) = (roofline(Depthwise).kinds[name] for name in ("depthwise",))
    # Forward and the weight's gradient.
    assert kind.flops == 2 * 2 * PIXELS * 49
    assert kind.launches == 2


def test_attention_is_fused_and_never_moves_its_scores() -> None:
    attention = roofline(SelfAttention).kinds["attention"]
    tokens = width = SIDE
    product = 2 * IMAGES * CHANNELS * tokens * tokens * width
    assert attention.launches == 2
    assert attention.flops == (2 + 5) * product


def test_the_optimiser_and_the_average_move_forty_bytes_a_weight() -> None:
    kinds = roofline(Scale).kinds
    assert (kinds["optimiser"].bytes, kinds["EMA"].bytes) == (28 * SIDE, 12 * SIDE)


def test_a_broadcast_is_read_once_and_a_view_costs_nothing() -> None:
    elementwise = roofline(Scale).kinds["elementwise"].operations
    moved, flops = elementwise[0]
    assert (moved, flops) == (4 * (PIXELS + SIDE + PIXELS), 0.0)


@pytest.mark.parametrize("model", ["S", "XL", "dit/S-2", "dit/XL-2"])
def test_products_are_the_costs_training_flops(model: str) -> None:
    """`fcdm.cost` counts forward three times; the sum over real operations leaves out little and adds little."""
    config = composed(f"model={model}")
    found = training_roofline(lambda: build_model(config.model, **shape_of(config)), config, 2)
    # Fused attention recomputes one of its products in backward; the first layer's input wants no gradient.
    assert found.flops == pytest.approx(2 * run_cost(config).train_flops_per_image, rel=0.02)


def least(config: Config, images: int) -> float:
    ceilings = Ceilings({"bf16": 800e12}, 3e12)
    found = training_roofline(lambda: build_model(config.model, **shape_of(config)), config, images)
    described = found.described(ceilings, "bf16")
    assert described["seconds"] == pytest.approx(sum(kind["seconds"] for kind in described["kinds"].values()))
    assert described["launches"] == sum(kind["launches"] for kind in described["kinds"].values())
    return float(described["seconds"])


def test_the_least_time_is_between_the_products_alone_and_grows_with_the_images() -> None:
    config = composed("model=S")
    one, four = least(config, 16), least(config, 64)
    assert one < four < 4 * one  # the optimiser's share does not grow
    assert four > 64 * run_cost(config).train_flops_per_image / 800e12
