"""The flow objective: its path, its loss by hand, and what a velocity says of the noise and the score."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fcdm.diffusion import FlowMatching
from fcdm.diffusion.objective import Loss
from fcdm.diffusion.solvers import predict_noise
from tests.support.mixture import GAUSSIAN, LINE, TWO, Mixture, draw

SHAPES = st.sampled_from([(0, 3), (1,), (5,), (2, 1), (3, 2), (2, 4, 3, 5), (1, 1, 2, 2, 2)])
TIMES = st.floats(0.0, 1.0, width=32)
FLOW = FlowMatching()


def filled(seed: int, shape: tuple[int, ...]) -> Tensor:
    return draw(seed, shape[0], *shape[1:]).view(shape)


def test_path_by_hand() -> None:
    data, noise = torch.tensor([[2.0, -4.0]] * 3), torch.tensor([[1.0, 8.0]] * 3)
    x = FLOW.corrupt(data, torch.tensor([0.0, 0.25, 1.0]), noise)
    assert x.tolist() == [[1.0, 8.0], [1.25, 5.0], [2.0, -4.0]]
    assert FLOW.target(data, noise, torch.zeros(3))[0].tolist() == [1.0, -12.0]


@given(shape=SHAPES, t=TIMES)
def test_the_target_is_the_path_and_gives_back_data_and_noise(shape: tuple[int, ...], t: float) -> None:
    data, noise, times = filled(1, shape), filled(2, shape), torch.full(shape[:1], t)
    x, target = FLOW.corrupt(data, times, noise), FLOW.target(data, noise, times)
    assert x.shape == shape
    assert x.dtype == torch.float32
    torch.testing.assert_close(predict_noise(target, x, times), noise, rtol=0, atol=2e-6)
    ends = FLOW.corrupt(data, torch.zeros(shape[:1]), noise), FLOW.corrupt(data, torch.ones(shape[:1]), noise)
    assert torch.equal(ends[0], noise)
    assert torch.equal(ends[1], data)


def test_the_target_is_the_path_s_derivative() -> None:
    data, noise = draw(3, 4, 2, 3, 3).double(), draw(4, 4, 2, 3, 3).double()
    t = torch.tensor([0.0, 0.2, 0.5, 0.999], dtype=torch.float64)
    difference = (FLOW.corrupt(data, t + 1e-3, noise) - FLOW.corrupt(data, t, noise)) / 1e-3
    torch.testing.assert_close(difference, FLOW.target(data, noise, t))


@pytest.mark.parametrize("world", [GAUSSIAN, TWO, LINE])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_velocity_gives_the_score(world: Mixture, t: float) -> None:
    """(1 - t) times the gradient of log p_t, by automatic differentiation, is minus the expected noise."""
    x = (1.5 * draw(5, 64, len(world.centres[0]))).double().requires_grad_()
    times = torch.full((64,), t, dtype=torch.float64)
    (score,) = torch.autograd.grad(world.log_density(x, times).sum(), x)
    noise = predict_noise(world.velocity(x, times), x, times)
    torch.testing.assert_close(-noise, (1 - t) * score, rtol=1e-9, atol=1e-9)


def test_at_the_start_all_is_noise() -> None:
    x, v = draw(6, 3, 2), draw(7, 3, 2)
    torch.testing.assert_close(predict_noise(v, x, torch.zeros(3)), x)


# --- loss ---


def flow_loss(output: Tensor, data: Tensor, noise: Tensor) -> Loss:
    """The loss does not look at x_t and t."""
    nothing = torch.empty(0)
    return FLOW.loss(output, data, nothing, nothing, noise)


def test_loss_by_hand() -> None:
    """Errors 0.5 and 1 in the first sample, 2 and 0 in the second."""
    data, noise = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.5, -1.0], [3.0, 1.0]])
    output = torch.tensor([[1.0, 4.0], [-1.0, -2.0]])
    loss = flow_loss(output, data, noise)
    assert loss.loss.tolist() == loss.mse.tolist() == [0.625, 2.0]
    assert loss.vb is None


def test_gradient_by_hand() -> None:
    """2 (output - target) / numbers per sample."""
    data, noise = draw(8, 3, 2, 4, 4), draw(9, 3, 2, 4, 4)
    output = draw(10, 3, 2, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(flow_loss(output, data, noise).loss.sum(), output)
    torch.testing.assert_close(gradient, 2 * (output - (data - noise)) / 32)


@given(shape=SHAPES)
def test_loss_of_any_shape(shape: tuple[int, ...]) -> None:
    data, noise = filled(11, shape), filled(12, shape)
    exact, off = flow_loss(data - noise, data, noise), flow_loss(data - noise + 0.5, data, noise)
    assert exact.loss.shape == shape[:1]
    assert torch.equal(exact.loss, torch.zeros(shape[:1]))
    torch.testing.assert_close(off.loss, torch.full(shape[:1], 0.25))


def test_loss_is_float32_for_a_bf16_output() -> None:
    data, noise, output = draw(13, 4, 2, 8, 8), draw(14, 4, 2, 8, 8), draw(15, 4, 2, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow_loss(output, data, noise).loss
    assert loss.dtype == torch.float32
    assert torch.equal(loss, flow_loss(output.float(), data, noise).loss)


def test_variance_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 4, 3, 3\), not \(2, 8, 3, 3\)"):
        flow_loss(torch.zeros(2, 8, 3, 3), torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))


def test_the_loss_is_least_at_the_mean_velocity() -> None:
    """Of all functions of (x_t, t), E[data - noise | x_t]: scaled or shifted, it does worse on 20,000 draws."""
    count, t = 20_000, torch.full((20_000,), 0.6)
    chosen = torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.3
    data = torch.where(chosen, -1.0 + 0.3 * draw(16, count), 0.8 + 0.2 * draw(17, count))[:, None]
    noise = draw(18, count, 1)
    velocity = LINE.velocity(FLOW.corrupt(data, t, noise), t)
    best = flow_loss(velocity, data, noise).loss.mean()
    for other in (0.9 * velocity, 1.1 * velocity, velocity + 0.1, velocity - 0.1):
        assert flow_loss(other, data, noise).loss.mean() > best
