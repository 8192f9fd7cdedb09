"""The samplers' output distributions, for data whose optimal denoiser is known.

For Gaussian data each sampling step is affine in x, so the samplers' exact output distribution follows from
their answers to a zero start, to unit starts and to unit noises: no Monte Carlo, no statistical error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.diffusion import GaussianDiffusion, Process
from fcdm.diffusion.objective import Sampling
from fcdm.randomness import Purpose, normal

Array = NDArray[np.float64]

TRAINING = Process.create()
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
MEAN = np.array([0.7, -1.2, 0.3])
_ROOT = np.array([[0.6, 0.0, 0.0], [-0.5, 0.9, 0.0], [0.2, 0.1, 0.3]])
COVARIANCE = _ROOT @ _ROOT.T


def gain(alpha_bar: float) -> Array:
    """K of E[x0 | x_t] = MEAN + K (x_t - sqrt(alpha_bar) MEAN)."""
    return math.sqrt(alpha_bar) * COVARIANCE @ np.linalg.inv(alpha_bar * COVARIANCE + (1 - alpha_bar) * np.eye(3))


def gaussian_denoiser(x: Tensor, t: Tensor) -> Tensor:
    """E[noise | x_t], exact, for data N(MEAN, COVARIANCE)."""
    alpha_bar = float(ALPHA_BAR[int(t[0])])
    centred = x.flatten(1).double().numpy() - math.sqrt(alpha_bar) * MEAN
    eps = (centred - math.sqrt(alpha_bar) * centred @ gain(alpha_bar).T) / math.sqrt(1 - alpha_bar)
    return torch.from_numpy(eps.reshape(x.shape)).float()


def samples(
    denoise: Callable[[Tensor, Tensor], Tensor],
    process: Process,
    start: Tensor,
    noise: Callable[[int], Tensor],
    sampler: str,
) -> Tensor:
    """Through all the steps of `process`."""
    return GaussianDiffusion(process).sample(denoise, start, noise, Sampling(sampler, len(process))).x


def exact_output(
    denoise: Callable[[Tensor, Tensor], Tensor],
    process: Process,
    sampler: str,
    dimensions: int,
    start_mean: Array | float = 0.0,
    start_covariance: Array | float = 1.0,
) -> tuple[Array, Array]:
    """Mean and covariance of an affine sampler's output, read off its answers to unit inputs."""
    d, noisy = dimensions, (len(process) - 1) * dimensions
    start = torch.zeros(1 + d + noisy, d, 1, 1)
    start[1 : 1 + d, :, 0, 0] = torch.eye(d)

    def noise(index: int) -> Tensor:
        impulses = torch.zeros_like(start)
        first = 1 + d + (index - 1) * d
        impulses[first : first + d, :, 0, 0] = torch.eye(d)
        return impulses

    out = samples(denoise, process, start, noise, sampler).flatten(1).double().numpy()
    responses = (out[1:] - out[0]).T
    from_start, from_noise = responses[:, :d], responses[:, d:]
    mean = out[0] + from_start @ (np.zeros(d) + start_mean)
    covariance = from_start @ (np.eye(d) * start_covariance) @ from_start.T + from_noise @ from_noise.T
    return mean, covariance


def recursion(steps: Array, sampler: str) -> tuple[Array, Array]:
    """The same from the definitions: Bayes' rule for ddpm, the same eps for ddim. Starts from N(0, I)."""
    mean, covariance = np.zeros(3), np.eye(3)
    for k in reversed(range(len(steps))):
        after, before = float(ALPHA_BAR[steps[k]]), float(ALPHA_BAR[steps[k - 1]]) if k else 1.0
        # x0 = K x + (I - sqrt(after) K) MEAN
        K = gain(after)
        offset = MEAN - math.sqrt(after) * K @ MEAN
        if sampler == "ddim":
            ratio = math.sqrt((1 - before) / (1 - after))
            weight_x0, weight_xt = math.sqrt(before) - math.sqrt(after) * ratio, ratio
            variance = 0.0
        elif k == 0:
            weight_x0, weight_xt, variance = 1.0, 0.0, 0.0
        else:
            # Precisions add up: of x_{t-1} given x0, and of x_t given x_{t-1}.
            beta = 1 - after / before
            variance = 1 / (1 / (1 - before) + (1 - beta) / beta)
            weight_x0, weight_xt = (
                variance * math.sqrt(before) / (1 - before),
                variance * math.sqrt(1 - beta) / beta,
            )
        matrix = weight_x0 * K + weight_xt * np.eye(3)
        mean = matrix @ mean + weight_x0 * offset
        covariance = matrix @ covariance @ matrix.T + variance * np.eye(3)
    return mean, covariance


@pytest.mark.parametrize("steps", [2, 5, 50, 250])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_gaussian_data_give_the_predicted_distribution(sampler: str, steps: int) -> None:
    process = TRAINING.respaced(steps)
    mean, covariance = exact_output(gaussian_denoiser, process, sampler, 3)
    expected_mean, expected_covariance = recursion(process.timesteps, sampler)
    np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=2e-4)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0, atol=2e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_more_steps_come_closer_to_the_data(sampler: str) -> None:
    """The discretisation error falls like 1 / S, down to what the start N(0, I) leaves.

    That start's mean is 0, not sqrt(alpha_bar) MEAN, 0.0076 in size; so the error does not fall under that.
    """
    errors = []
    for steps in (10, 50, 250, 1000):
        mean, covariance = exact_output(gaussian_denoiser, TRAINING.respaced(steps), sampler, 3)
        errors.append(max(np.abs(mean - MEAN).max(), np.abs(covariance - COVARIANCE).max()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 9 * errors[3]
    assert errors[3] < 0.01


@pytest.mark.parametrize("steps", [2, 3, 10, 100])
@pytest.mark.parametrize("std", [0.2, 0.9])
def test_the_exact_learned_variance_makes_ddpm_exact_at_any_number_of_steps(steps: int, std: float) -> None:
    """Reverse steps of a Gaussian are Gaussian: with their exact mean and variance nothing is discretised.

    Var(x_{t-1} | x_t) = posterior variance + weight_x0^2 Var(x0 | x_t) lies in the learned range for
    std <= 1. The last step gives E[x0 | x_t]: of the data's variance it leaves out Var(x0 | x_t) at t = 0.
    """
    process = TRAINING.respaced(steps)
    log_betas = np.log(process.betas)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        k = int(np.searchsorted(process.timesteps, int(t[0])))
        alpha_bar = float(process.alpha_bar[k])
        total = alpha_bar * std**2 + 1 - alpha_bar
        eps = math.sqrt(1 - alpha_bar) / total * (x.double() - math.sqrt(alpha_bar) * 0.4)
        if k == 0:
            return torch.cat([eps, torch.zeros_like(eps)], 1).float()
        unknown = std**2 * (1 - alpha_bar) / total
        variance = process.posterior_variance[k] + process.posterior_mean_x0[k] ** 2 * unknown
        low = process.posterior_log_variance[k]
        v = 2 * (math.log(variance) - low) / (log_betas[k] - low) - 1
        assert -1 <= v <= 1
        return torch.cat([eps, torch.full_like(eps, v)], 1).float()

    first, last = float(process.alpha_bar[0]), float(process.alpha_bar[-1])
    mean, covariance = exact_output(denoise, process, "ddpm", 1, math.sqrt(last) * 0.4, last * std**2 + 1 - last)
    assert mean[0] == pytest.approx(0.4, abs=1e-4)
    kept = std**4 * first / (first * std**2 + 1 - first)
    assert covariance[0, 0] == pytest.approx(kept, rel=2e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_gaussian_data(sampler: str) -> None:
    """With real noise, 20,000 samples have the exact output's moments within five standard errors."""
    process, count = TRAINING.respaced(25), 20_000
    positions = torch.arange(count)
    start = normal(0, Purpose.SAMPLE_START, 0, positions, (3, 1, 1))
    x = samples(
        gaussian_denoiser,
        process,
        start,
        lambda k: normal(0, Purpose.SAMPLE_STEP, k, positions, (3, 1, 1)),
        sampler,
    )
    x = x.flatten(1).double().numpy()
    mean, covariance = recursion(process.timesteps, sampler)
    variances = np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(variances / count))
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / count)
    assert np.all(np.abs(np.cov(x.T) - covariance) < 5 * error)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_a_mixture(sampler: str) -> None:
    """Two Gaussians, 30 % and 70 %: shares, means and spreads come back.

    Bounds are five standard errors of 8,000 samples (of a share 0.026, of the smaller component's mean 0.026
    and standard deviation 0.018) and, for the standard deviation, 0.012 that 500 steps leave: both samplers'
    spread is too small by their discretisation.
    """
    shares, centres, std = torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [0.8, -0.6]]), 0.25
    count = 8_000

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = float(ALPHA_BAR[int(t[0])])
        variance = alpha_bar * std**2 + 1 - alpha_bar
        away = x.flatten(1)[:, None] - math.sqrt(alpha_bar) * centres
        responsibility = torch.softmax(shares.log() - 0.5 * away.square().sum(-1) / variance, dim=1)
        score = -(responsibility[..., None] * away).sum(1) / variance
        return (-math.sqrt(1 - alpha_bar) * score).view_as(x)

    positions = torch.arange(count)
    x = samples(
        denoise,
        TRAINING.respaced(500),
        normal(1, Purpose.SAMPLE_START, 0, positions, (2, 1, 1)),
        lambda k: normal(1, Purpose.SAMPLE_STEP, k, positions, (2, 1, 1)),
        sampler,
    ).flatten(1)
    component = (x[:, None] - centres).square().sum(-1).argmin(1)
    for c in (0, 1):
        mine = x[component == c]
        share = len(mine) / count
        assert share == pytest.approx(shares[c].item(), abs=0.026)
        torch.testing.assert_close(mine.mean(0), centres[c], rtol=0, atol=0.03)
        torch.testing.assert_close(mine.std(0), torch.full((2,), std), rtol=0, atol=0.03)
