"""The diffusion process and its loss, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fcdm.diffusion import Process
from fcdm.diffusion.ddpm_loss import discretised_log_likelihood, gaussian_kl, training_loss
from fcdm.diffusion.process import Tables, split_output
from fcdm.errors import UserError
from fcdm.randomness import Purpose, normal

CPU = torch.device("cpu")
PROCESS = Process.create()


def draw(seed: int, *shape: int) -> Tensor:
    return normal(seed, Purpose.NOISE, 0, torch.arange(shape[0]), shape[1:])


# --- process ---


def test_linear_schedule() -> None:
    """Its ends, its even spacing, and its terminal alpha_bar, 4.04e-5, by a sum of logarithms."""
    assert len(PROCESS) == 1000
    assert PROCESS.betas[0] == 1e-4
    assert PROCESS.betas[-1] == 2e-2
    np.testing.assert_allclose(np.diff(PROCESS.betas), (2e-2 - 1e-4) / 999, rtol=1e-9)
    log_alpha_bar = math.fsum(math.log1p(-(1e-4 + (2e-2 - 1e-4) * t / 999)) for t in range(1000))
    assert math.exp(log_alpha_bar) == pytest.approx(4.0358e-5, rel=1e-4)
    assert PROCESS.alpha_bar[-1] == pytest.approx(math.exp(log_alpha_bar), rel=1e-12)


def test_q_sample_is_the_chain_of_single_steps() -> None:
    """DDPM eq. 4 from eq. 2: signal times sqrt(1 - beta), variance times (1 - beta) plus beta."""
    signal, variance = 1.0, 0.0
    signals, variances = [], []
    for beta in PROCESS.betas:
        signal, variance = signal * math.sqrt(1 - beta), variance * (1 - beta) + beta
        signals.append(signal)
        variances.append(variance)
    t = torch.arange(1000)
    one, zero = torch.ones(1000, 1, 1, 1), torch.zeros(1000, 1, 1, 1)
    np.testing.assert_allclose(PROCESS.q_sample(one, t, zero).flatten().numpy(), signals, rtol=1e-6)
    np.testing.assert_allclose(PROCESS.q_sample(zero, t, one).flatten().numpy() ** 2, variances, rtol=1e-6)


@pytest.mark.parametrize("process", [PROCESS, PROCESS.respaced(50)], ids=["1000", "50"])
@pytest.mark.parametrize("t", [1, 7, 49])
def test_posterior_is_bayes_rule(process: Process, t: int) -> None:
    """x_{t-1} given x_t and x_0 on a grid: prior N(sqrt(ab) x0, 1 - ab) times likelihood of x_t."""
    before, beta, after = (float(x) for x in (process.alpha_bar[t - 1], process.betas[t], process.alpha_bar[t]))
    x0 = 0.8
    x_t = math.sqrt(after) * x0 - 1.5 * math.sqrt(1 - after)
    centre = math.sqrt(before) * x0
    grid = np.linspace(centre - 12 * math.sqrt(1 - before), centre + 12 * math.sqrt(1 - before), 200_001)
    log_weight = -0.5 * (grid - centre) ** 2 / (1 - before) - 0.5 * (x_t - math.sqrt(1 - beta) * grid) ** 2 / beta
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = float((weight * grid).sum())
    variance = float((weight * (grid - mean) ** 2).sum())
    ours = process.posterior_mean(torch.full((1, 1), x0), torch.full((1, 1), x_t), torch.tensor([t]))
    assert ours.item() == pytest.approx(mean, abs=1e-5)
    assert process.posterior_variance[t] == pytest.approx(variance, rel=1e-4)
    assert math.exp(process.posterior_log_variance[t]) == pytest.approx(variance, rel=1e-4)


def test_first_step() -> None:
    """Before the first step there is only x_0: the posterior is a point there, its log-variance borrowed."""
    t = torch.tensor([0])
    assert PROCESS.posterior_variance[0] == 0
    assert PROCESS.posterior_log_variance[0] == PROCESS.posterior_log_variance[1]
    ours = PROCESS.posterior_mean(torch.full((1, 1), 0.3), torch.full((1, 1), 9.0), t)
    assert ours.item() == pytest.approx(0.3, rel=1e-6)


def test_predicted_x0_and_eps_invert_q_sample() -> None:
    x0, eps, t = draw(1, 8, 3, 4, 4), draw(2, 8, 3, 4, 4), torch.tensor([0, 1, 10, 100, 200, 400, 700, 999])
    x_t = PROCESS.q_sample(x0, t, eps)
    # float32 rounding of x_t is multiplied by 1 / sqrt(alpha_bar), up to 157.
    torch.testing.assert_close(PROCESS.predict_x0(x_t, t, eps), x0, rtol=0, atol=2e-4)
    # ... and by 1 / sqrt(1 - alpha_bar), up to 100, the other way round.
    torch.testing.assert_close(PROCESS.predict_eps(x_t, t, x0), eps, rtol=0, atol=2e-4)


def test_learned_range_interpolates_the_log_variances() -> None:
    """Improved DDPM eq. 15."""
    t = torch.tensor([1, 30, 999])
    x = torch.zeros(3, 1, 1, 1)
    low, high = np.log(PROCESS.posterior_variance[t]), np.log(PROCESS.betas[t])
    for v, expected in ((-1.0, low), (1.0, high), (0.5, 0.25 * low + 0.75 * high)):
        ours = PROCESS.log_variance(x, t, torch.full_like(x, v)).flatten().numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(PROCESS.log_variance(x, t, None).flatten().numpy(), low, rtol=1e-6)


@given(steps=st.integers(2, 1000))
def test_respacing(steps: int) -> None:
    process = PROCESS.respaced(steps)
    assert len(process) == len(process.timesteps) == steps
    assert process.timesteps[0] == 0
    assert process.timesteps[-1] == 999
    assert np.all(np.diff(process.timesteps) >= 1)
    # Even spacing: no kept step is further than half a step from its even place.
    np.testing.assert_array_less(np.abs(process.timesteps - np.linspace(0, 999, steps)), 0.5 + 1e-9)
    np.testing.assert_allclose(process.alpha_bar, PROCESS.alpha_bar[process.timesteps], rtol=1e-11)
    assert process.posterior_log_variance[0] == process.posterior_log_variance[1]


def test_respacing_rounds_halves_to_even() -> None:
    """4 of 10 steps have stride 3; 5 of 11 have 2.5, and 2.5 goes to 2, 7.5 to 8."""
    assert Process.create(10).respaced(4).timesteps.tolist() == [0, 3, 6, 9]
    assert Process.create(11).respaced(5).timesteps.tolist() == [0, 2, 5, 8, 10]
    twice = Process.create(11).respaced(5).respaced(3)
    assert twice.timesteps.tolist() == [0, 5, 10]
    assert PROCESS.respaced(1000).timesteps.tolist() == list(range(1000))
    np.testing.assert_allclose(PROCESS.respaced(1000).betas, PROCESS.betas, rtol=1e-9)


@pytest.mark.parametrize("steps", [-1, 0, 1, 1001])
def test_respacing_refuses(steps: int) -> None:
    with pytest.raises(UserError, match=rf"between 2 and the 1000 .* not {steps}: set evaluation.sampling_steps"):
        PROCESS.respaced(steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1,), "timesteps must be at least 2"), ((10, 0.0), "betas"), ((10, 1e-4, 1.5), "betas")],
)
def test_schedule_refuses(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Process.create(*arguments)  # type: ignore[arg-type]


def test_tables_are_made_once_and_serve_training_after_inference() -> None:
    process = Process.create(10)
    with torch.inference_mode():
        tables = process.tables(CPU)
    assert isinstance(tables, Tables)
    assert process.tables(CPU) is tables
    x0 = torch.ones(2, 1, 1, 1, requires_grad=True)
    process.q_sample(x0, torch.tensor([0, 9]), x0 * 2).sum().backward()
    assert x0.grad is not None
    with pytest.raises(ValueError, match="read-only"):
        process.betas[0] = 0.5


# --- loss ---


def test_gaussian_kl_is_torchs() -> None:
    mean1, mean2, log1, log2 = draw(3, 4, 50)
    ours = gaussian_kl(mean1, log1, mean2, log2)
    theirs = kl_divergence(Normal(mean1, (0.5 * log1).exp()), Normal(mean2, (0.5 * log2).exp()))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("std", [0.003, 0.02, 0.5])
@pytest.mark.parametrize("mean", [-1.1, 0.123, 0.99])
def test_discretised_likelihood_is_a_distribution_over_the_bins(mean: float, std: float) -> None:
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_variance = torch.full_like(bins, 2 * math.log(std))
    ours = discretised_log_likelihood(bins, torch.full_like(bins, mean), log_variance).exp()
    assert ours.sum().item() == pytest.approx(1.0, abs=1e-6)
    edges = Normal(mean, std).cdf(bins[:-1] + 1 / 255)
    exact = torch.diff(torch.cat([torch.zeros(1), edges, torch.ones(1)]))
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-3)
    assert ours.min() >= 1e-12 * (1 - 1e-9)


def loss_case(t: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps = torch.tensor(t)
    x0, noise = draw(4, len(t), 2, 4, 4).clamp(-1, 1), draw(5, len(t), 2, 4, 4)
    return x0, PROCESS.q_sample(x0, steps, noise), steps, noise


def test_loss_of_the_exact_noise() -> None:
    """mse is 0; the bound is KL between equal means: (r - 1 - ln r) / 2 / ln 2, r of the variances."""
    x0, x_t, t, noise = loss_case([1, 50, 500])
    for v in (-1.0, 1.0, 0.0):
        loss = training_loss(PROCESS, torch.cat([noise, torch.full_like(noise, v)], 1), x0, x_t, t, noise)
        ratio = (PROCESS.posterior_variance[t] / PROCESS.betas[t]) ** ((v + 1) / 2)
        assert loss.vb is not None
        np.testing.assert_allclose(loss.mse, 0)
        np.testing.assert_allclose(loss.vb, (ratio - 1 - np.log(ratio)) / 2 / math.log(2), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss.loss, loss.vb)


def test_loss_terms_against_the_definition() -> None:
    """Of each image alone, in float64: mse, and KL or minus the log-likelihood in bits per dimension."""
    x0, x_t, t, noise = loss_case([0, 1, 300, 999])
    output = torch.cat([noise + 0.05 * draw(6, *noise.shape), 0.3 * draw(7, *noise.shape)], 1)
    loss = training_loss(PROCESS, output, x0, x_t, t, noise)
    for image in range(4):
        k = int(t[image])
        eps, v = output[image].double().chunk(2)
        x, data = x_t[image].double(), x0[image].double()
        alpha_bar, beta = PROCESS.alpha_bar[k], PROCESS.betas[k]
        # DDPM eq. 11: the mean that a predicted noise stands for.
        mean = (x - beta / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(1 - beta)
        true_eps = (x - math.sqrt(alpha_bar) * data) / math.sqrt(1 - alpha_bar)
        true_mean = (x - beta / math.sqrt(1 - alpha_bar) * true_eps) / math.sqrt(1 - beta)
        low, high = PROCESS.posterior_log_variance[k], math.log(beta)
        std = (0.5 * ((v + 1) / 2 * high + (1 - v) / 2 * low)).exp()
        if k == 0:
            vb = -discretised_log_likelihood(data, mean, 2 * std.log()).mean()
        else:
            vb = kl_divergence(Normal(true_mean, math.exp(0.5 * low)), Normal(mean, std)).mean()
        assert loss.mse[image].item() == pytest.approx((eps - noise[image]).square().mean().item(), rel=1e-4)
        assert loss.vb is not None
        assert loss.vb[image].item() == pytest.approx(vb.item() / math.log(2), rel=1e-3)
        assert loss.loss[image].item() == pytest.approx(loss.mse[image].item() + loss.vb[image].item(), rel=1e-6)


def test_bound_teaches_the_variance_only() -> None:
    x0, x_t, t, noise = loss_case([0, 20, 800])
    output = torch.cat([noise + 0.1, torch.zeros_like(noise)], 1).requires_grad_()
    loss = training_loss(PROCESS, output, x0, x_t, t, noise)
    assert loss.vb is not None
    (bound,) = torch.autograd.grad(loss.vb.sum(), output, retain_graph=True)
    assert torch.all(bound[:, :2] == 0)
    assert torch.all(bound[:, 2:].flatten(1).abs().amax(1) > 0)
    (total,) = torch.autograd.grad(loss.loss.sum(), output)
    torch.testing.assert_close(total[:, :2], 2 * 0.1 * torch.ones_like(noise) / noise[0].numel(), rtol=1e-4, atol=0)
    torch.testing.assert_close(total[:, 2:], bound[:, 2:])


def test_loss_without_learned_sigma() -> None:
    x0, x_t, t, noise = loss_case([0, 999])
    loss = training_loss(PROCESS, noise + 0.5, x0, x_t, t, noise)
    assert loss.vb is None
    torch.testing.assert_close(loss.mse, torch.full((2,), 0.25))
    torch.testing.assert_close(loss.loss, loss.mse)


def test_loss_is_float32_for_a_bf16_output() -> None:
    x0, x_t, t, noise = loss_case([0, 3, 999])
    output = draw(8, 3, 4, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = training_loss(PROCESS, output, x0, x_t, t, noise)
    expected = training_loss(PROCESS, output.float(), x0, x_t, t, noise)
    assert loss.vb is not None
    assert loss.loss.dtype == loss.mse.dtype == loss.vb.dtype == torch.float32
    for ours, theirs in zip(loss, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_output_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 or 4, not 3"):
        split_output(torch.zeros(1, 3, 4, 4), 2)
