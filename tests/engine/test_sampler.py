"""What a batch of samples costs besides the network, and that bf16 casts weights once for all of its calls."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcdm.config.schema import Config
from fcdm.diffusion.guidance import Guided
from fcdm.engine.environment import autocast
from fcdm.engine.sampler import NOISE_AT_ONCE, Sampler
from fcdm.engine.state import create_model
from fcdm.randomness import Purpose, normal
from tests.support.commands import composed
from tests.support.launches import Launches, WeightCasts

CPU = torch.device("cpu")
NUMBERS = torch.arange(3)


def of(model: str, **changes: Any) -> Config:
    config = composed(f"model={model}", "threads=1", "resolution=16" if "dit" in model else "resolution=8")
    asked = {"sampler": "ddpm", "sampling_steps": 5, "precision": "bf16", **changes}
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **asked))


class Own(nn.Module):
    """A user's: a weight made of others at each call, a buffer, and a weight that is never trained."""

    label_embedders = 1
    is_stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Conv2d(8, 2, 3, padding=1)
        self.label = nn.Embedding(11, 8)
        self.fixed = nn.Parameter(torch.randn(8, 8), requires_grad=False)
        self.register_buffer("table", torch.randn(8))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        h = self.stem(x).permute(0, 2, 3, 1) + self.label(labels)[:, None, None] + self.table
        out: Tensor = self.head(F.gelu(self.middle(F.linear(h, self.fixed))).permute(0, 3, 1, 2))
        return out


def module(model: str, config: Config) -> nn.Module:
    """In eval mode, with an output that is not 0; gradients off, as an EMA's are."""
    torch.manual_seed(0)
    made = Own() if model == "own" else create_model(config, CPU)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return made.eval().requires_grad_(False)


def by_autocast(model: nn.Module, config: Config) -> Tensor:
    """Samples with a block of autocast around each call, and each step's noise drawn on its own."""
    sampler = Sampler(model, config, CPU)
    asked = config.evaluation

    def answer(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        with autocast("bf16", CPU):
            made: Tensor = model(x, t, labels)
        return made

    guided = Guided(answer, sampler.labels(NUMBERS), 10, asked.guidance_scale)
    start = normal(asked.seed, Purpose.SAMPLE_START, 0, NUMBERS, sampler.shape)

    def noise(k: int) -> Tensor:
        return normal(asked.seed, Purpose.SAMPLE_STEP, k, NUMBERS, sampler.shape)

    return sampler.objective.sample(guided, start, noise, sampler.sampling).x


@pytest.mark.parametrize("model", ["N", "dit/N-2", "own"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_bf16_casts_weights_once_and_samples_as_autocast_does(model: str, scale: float) -> None:
    """Bit for bit. Vectors that FCDM casts itself (biases of convolutions, GRN's shift) are cast at each call."""
    config = of("N" if model == "own" else model, guidance_scale=scale, guidance_channels=None)
    made = module(model, config)
    weights = dict(made.named_parameters())
    wanted = by_autocast(made, config)
    with WeightCasts(weights) as casts:
        found = Sampler(made, config, CPU).latents(NUMBERS)
    assert torch.equal(found, wanted)
    matrices = {name: casts.by_name[name] for name, weight in weights.items() if weight.ndim > 1}
    assert set(matrices.values()) <= {0, 1}, matrices
    assert sum(matrices.values()) >= 3
    vectors = {name for name, count in casts.by_name.items() if count > 1}
    assert all(
        name.endswith(("depthwise.bias", "response_norm.beta", "stem.bias", "head.bias", "out.bias"))
        for name in vectors
    )
    assert model == "N" or not vectors, "autocast casts all others, and keeps them"
    assert not any(weight.requires_grad for weight in weights.values())
    assert not found.requires_grad


def test_an_error_leaves_gradients_as_they_were() -> None:
    config = of("N")
    made = module("N", config)
    next(made.parameters()).requires_grad_(True)

    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Sampler(made, config, CPU, interrupt=fail).latents(NUMBERS)
    assert [weight.requires_grad for weight in made.parameters()].count(True) == 1


def test_float32_is_no_autocast() -> None:
    config = of("N", precision="fp32")
    made = module("N", config)
    with WeightCasts(dict(made.named_parameters())) as casts:
        found = Sampler(made, config, CPU).latents(NUMBERS)
    assert not casts.by_name
    assert not torch.equal(found, Sampler(made, of("N"), CPU).latents(NUMBERS))


class Free(nn.Module):
    """A network that costs nothing."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


@pytest.mark.parametrize(("sampler", "budget"), [("ddpm", 36), ("ddim", 33)])
def test_a_sampling_step_takes_few_operations(sampler: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network aside, each of 32 more steps: 30 of a step's own, and 44 for the noise of 8. It was 83 for each."""
    monkeypatch.setattr("fcdm.engine.sampler.NOISE_AT_ONCE", 8 * len(NUMBERS) * 64)

    def launches(steps: int) -> int:
        config = of("N", sampler=sampler, sampling_steps=steps)
        sampling = Sampler(Free(), config, CPU)
        sampling.latents(NUMBERS)
        with Launches() as counted:
            sampling.latents(NUMBERS)
        return counted.count

    assert (launches(65) - launches(33)) / 32 <= budget


@pytest.mark.parametrize("samples", [3, 4096])
def test_noise_of_several_steps_at_once_is_each_step_s(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    numbers = torch.arange(samples)
    config = of("N")
    sampler = Sampler(Free(), config, CPU)

    def sample(denoise: Any, start: Tensor, noise: Callable[[int], Tensor], *_: Any) -> Any:
        for k in [*reversed(range(1, 12)), 9, 10, 0]:
            assert torch.equal(noise(k), normal(config.evaluation.seed, Purpose.SAMPLE_STEP, k, numbers, sampler.shape))
            asked.append(k)
        return type("Solution", (), {"x": start})

    monkeypatch.setattr(type(sampler.objective), "sample", staticmethod(sample))
    sampler.latents(numbers)
    assert len(asked) == 14
    assert (NOISE_AT_ONCE // (4096 * math.prod(sampler.shape))) in range(2, 11), "some steps at once, not all"


def test_weights_that_are_trained_stay_so() -> None:
    config = of("N")
    trained = copy.deepcopy(module("N", config)).requires_grad_(True)
    Sampler(trained, config, CPU).latents(NUMBERS)
    assert all(weight.requires_grad for weight in trained.parameters())
