"""Guidance in an interval, with a weaker model, of velocity; and what it costs. (Its rule: `test_sampling.py`.)"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fcdm.diffusion import FlowMatching, GaussianDiffusion, Process
from fcdm.diffusion.guidance import Guided
from fcdm.diffusion.objective import Sampling
from fcdm.diffusion.solvers import solve
from fcdm.errors import UserError
from tests.support.mixture import Mixture, draw

FLOW = FlowMatching()


def steps_of(timesteps: int) -> GaussianDiffusion:
    return GaussianDiffusion(Process.create(timesteps))


LABELS = torch.tensor([2, 5, 7])
NULL = 10
X = draw(1, 3, 4, 2, 2)


class LabelModel:
    """Channel c is x's channel 0 plus t plus slope (c + 1) times the label; writes down its batches."""

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        self.channels, self.slope = channels, slope
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert len(x) == len(t) == len(labels)
        self.batches.append(len(x))
        weights = self.slope * torch.arange(1, self.channels + 1).view(1, -1, 1, 1)
        label = (labels if labels.ndim == 1 else labels[:, -1]).view(-1, 1, 1, 1)
        return x[:, :1] + t.view(-1, 1, 1, 1) + weights * label


def plain(channels: int, t: Tensor, labels: Tensor, slope: float = 1.0) -> Tensor:
    return LabelModel(channels, slope)(X, t, labels)


# --- interval ---


@pytest.mark.parametrize(
    ("time", "t"), [(steps_of(1000).diffusion_time, 417), (FLOW.diffusion_time, 1 - 0.417)], ids=["ddpm", "flow"]
)
@pytest.mark.parametrize(
    ("interval", "inside"),
    [((0.0, 1.0), True), ((0.417, 0.5), True), ((0.3, 0.417), True), ((0.42, 1.0), False), ((0.0, 0.41), False)],
)
def test_interval_means_the_same_for_steps_and_flow_times(
    time: object, t: float, interval: tuple[float, float], inside: bool
) -> None:
    """Diffusion time 0.417 of both; ends belong to the interval. Outside of it: one forward pass of the batch."""
    model, times = LabelModel(4), torch.full((3,), t)
    denoise = Guided(model, LABELS, NULL, 3.0, interval=interval, time=time)  # type: ignore[arg-type]
    conditional, unconditional = plain(4, times, LABELS), plain(4, times, torch.full((3,), NULL))
    expected = unconditional + 3.0 * (conditional - unconditional) if inside else conditional
    torch.testing.assert_close(denoise(X, times), expected)
    assert model.batches == ([6] if inside else [3])


@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize("channels", [None, 3])
def test_rows_inside_the_interval_alone_are_guided_and_paid_for(channels: int | None, columns: int | None) -> None:
    """As in dopri5, whose samples have times of their own."""
    labels = LABELS if columns is None else LABELS[:, None].expand(3, columns)
    model, times = LabelModel(8), torch.tensor([0.9, 0.5, 0.45])
    given_to = Guided(model, labels, NULL, 4.0, channels, interval=(0.5, 0.6), time=FLOW.diffusion_time)
    out = given_to(X, times)
    everywhere = Guided(LabelModel(8), labels, NULL, 4.0, channels)(X, times)
    torch.testing.assert_close(out[1:], everywhere[1:])
    torch.testing.assert_close(out[0], plain(8, times, LABELS)[0])
    assert model.batches == [5]


@given(times=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), scale=st.sampled_from([0.0, 1.0, 2.5]))
def test_the_whole_interval_is_guidance_everywhere(times: list[float], scale: float) -> None:
    t = torch.tensor(times)
    whole = Guided(LabelModel(4), LABELS, NULL, scale, 3, interval=(0.0, 1.0), time=FLOW.diffusion_time)
    torch.testing.assert_close(whole(X, t), Guided(LabelModel(4), LABELS, NULL, scale, 3)(X, t))


def test_diffusion_times() -> None:
    assert steps_of(1000).diffusion_time(torch.tensor([0, 417, 999])).tolist() == [0.0, 0.417, 0.999]
    assert FLOW.diffusion_time(torch.tensor([0.0, 0.25, 1.0])).tolist() == [1.0, 0.75, 0.0]


# --- weaker model ---


@pytest.mark.parametrize("weak_channels", [4, 8], ids=["without", "with variance"])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_autoguidance(scale: float, weak_channels: int) -> None:
    """weak + scale (strong - weak), both conditional; variance channels are the strong model's."""
    model, weak, t = LabelModel(8), LabelModel(weak_channels, 0.5), torch.tensor([3, 3, 3])
    denoise = Guided(model, LABELS, NULL, scale, weak=weak)
    out, strong = denoise(X, t), plain(8, t, LABELS)
    led = plain(4, t, LABELS, 0.5)
    torch.testing.assert_close(out[:, :4], led + scale * (strong[:, :4] - led))
    torch.testing.assert_close(out[:, 4:], strong[:, 4:])
    assert model.batches == weak.batches == [3]


def test_autoguidance_in_an_interval() -> None:
    model, weak, t = LabelModel(4), LabelModel(4, 0.5), torch.tensor([100, 500, 900])
    denoise = Guided(model, LABELS, NULL, 2.0, weak=weak, interval=(0.4, 0.6), time=steps_of(1000).diffusion_time)
    out, strong, led = denoise(X, t), plain(4, t, LABELS), plain(4, t, LABELS, 0.5)
    torch.testing.assert_close(out[1], 2 * strong[1] - led[1])
    torch.testing.assert_close(out[[0, 2]], strong[[0, 2]])
    assert (model.batches, weak.batches) == ([3], [1])


def test_scale_one_is_the_model_alone() -> None:
    model, weak, t = LabelModel(4), LabelModel(4, 0.5), torch.tensor([1, 1, 1])
    denoise = Guided(model, LABELS, NULL, 1.0, weak=weak, interval=(0.2, 0.4), time=steps_of(10).diffusion_time)
    assert torch.equal(denoise(X, t), plain(4, t, LABELS))
    assert (weak.batches, model.batches) == ([], [3])


# --- refusals ---


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_refuses_an_interval_that_is_none(interval: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"guidance_interval=\[.*0 <= from < to <= 1"):
        Guided(LabelModel(4), LABELS, NULL, 2.0, interval=interval, time=FLOW.diffusion_time)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_refuses_a_scale_that_is_none(scale: float) -> None:
    with pytest.raises(UserError, match="guidance_scale must be a finite number"):
        Guided(LabelModel(4), LABELS, NULL, scale)


def test_refuses_channels_with_a_weaker_model() -> None:
    with pytest.raises(UserError, match=re.escape("leave evaluation.guidance_channels null")):
        Guided(LabelModel(4), LABELS, NULL, 2.0, 3, weak=LabelModel(4))


def test_an_interval_needs_to_know_the_time() -> None:
    with pytest.raises(ValueError, match="needs `time`"):
        Guided(LabelModel(4), LABELS, NULL, 2.0, interval=(0.1, 0.9))


# --- what guidance does to distributions ---


def test_guided_velocity_is_the_guided_score() -> None:
    """score_guided = uncond + scale (cond - uncond) of scores, as velocity is linear in the score."""
    conditional, everything = Mixture([1.0], [[0.5, 1.0]], [0.3]), Mixture([1.0], [[0.0, 0.2]], [0.9])
    x, t = FLOW.corrupt(draw(2, 8, 2), torch.full((8,), 0.5), draw(3, 8, 2)).double(), torch.full((8,), 0.5)

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        known = (labels != NULL).view(-1, 1)
        return torch.where(known, conditional.velocity(x, t), everything.velocity(x, t))

    def score(world: Mixture) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(world.log_density(leaf, t).sum(), leaf)
        return gradient

    velocity = Guided(model, torch.zeros(8, dtype=torch.int64), NULL, 2.5)(x, t).double()
    expected = score(everything) + 2.5 * (score(conditional) - score(everything))
    torch.testing.assert_close((0.5 * velocity - x) / 0.5, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dopri5", "sde"])
def test_samples_of_each_class_through_guided(sampler: str) -> None:
    """Through the interface that evaluation uses: labels pick the component, and forward passes are counted.

    Tolerance: 0.03, five standard errors of 2,000 samples of spread 0.25; for `sde` 0.02 more of its own steps.
    """
    centres = torch.tensor([[-1.0, 0.5], [0.8, -0.6]])
    labels = torch.arange(4000) % 2

    calls = 0

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        means = centres[labels]
        variance = (0.25 * t).square() + (1 - t).square()
        factor = ((0.25**2 * t - (1 - t)) / variance)[:, None]
        return means + factor * (x - t[:, None] * means)

    denoise = Guided(model, labels, 2, 1.0)
    end = solve(denoise, draw(4, 4000, 2), lambda k: draw(5, 4000, 2, step=k), Sampling(sampler, 60))
    for label in (0, 1):
        mine = end.x[labels == label]
        extra = 0.02 if sampler == "sde" else 0.0
        torch.testing.assert_close(mine.mean(0), centres[label], rtol=0, atol=0.03 + extra)
        torch.testing.assert_close(mine.std(0), torch.full((2,), 0.25), rtol=0, atol=0.03 + extra)
    assert calls == int(end.nfe.max())
