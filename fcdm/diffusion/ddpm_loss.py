"""The training loss: noise prediction plus, with learned sigma, the variational bound (arXiv 2102.09672)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fcdm.diffusion.objective import Loss
from fcdm.diffusion.process import Process, split_output


def training_loss(process: Process, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Loss:
    """The hybrid loss in float32: L_simple + lambda L_vlb (improved DDPM eq. 16), or L_simple alone.

    The bound's term of one step is added as it is. Its mean over steps is L_vlb / T (eq. 4), so lambda is
    1 / T: at T = 1000 the paper's 0.001.

    Args:
        process: of training.
        output: (B, C, H, W) predicted noise or (B, 2C, H, W) with the variance's v; any float type.
        x0, x_t, noise: (B, C, H, W) data, noised data, and the noise in it.
        t: (B,) int64.

    Raises:
        ValueError: output has neither C nor 2C channels.
    """
    with torch.autocast(x0.device.type, enabled=False):
        eps, v = split_output(output, x0.shape[1])
        x0, x_t, noise = x0.float(), x_t.float(), noise.float()
        mse = _mean((noise - eps).square())
        if v is None:
            return Loss(mse, mse, None)
        # The bound teaches the variance only; the mean is left to L_simple (section 3.1).
        vb = variational_bound(process, eps.detach(), v, x0, x_t, t)
        return Loss(mse + vb, mse, vb)


def variational_bound(process: Process, eps: Tensor, v: Tensor | None, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The bound's term of step t (DDPM eq. 5), (B,) in bits per dimension.

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at t = 0 minus the log-likelihood of x_0.
    """
    mean = process.posterior_mean(process.predict_x0(x_t, t, eps), x_t, t)
    log_variance = process.log_variance(x_t, t, v).expand_as(mean)
    divergence = gaussian_kl(process.posterior_mean(x0, x_t, t), process.log_variance(x_t, t, None), mean, log_variance)
    likelihood = discretised_log_likelihood(x0, mean, log_variance)
    return torch.where(t == 0, -_mean(likelihood), _mean(divergence)) / math.log(2.0)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, variance1) || N(mean2, variance2)) of each dimension, in nats."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (ratio.exp() - 1.0 - ratio + (mean1 - mean2).square() * (-log_variance2).exp())


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability, in nats, that a Gaussian falls in x's bin of 256 over [-1, 1] (DDPM eq. 13).

    The bins at the two ends are open: they begin where |x| > 0.999. Applied to latents as well, as the public
    codes do. The normal CDF is approximated by a tanh; a probability is at least 1e-12.
    """
    centred, inverse_std = x - mean, (-0.5 * log_variance).exp()
    below = _normal_cdf(inverse_std * (centred - 1.0 / 255.0))
    above = _normal_cdf(inverse_std * (centred + 1.0 / 255.0))
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1.0 - below, above - below))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The standard normal's CDF to 4e-4, the tanh approximation of GELU (arXiv 1606.08415, section 2)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))


def _mean(x: Tensor) -> Tensor:
    """Mean over all dimensions but the first: (B, ...) to (B,)."""
    return x.flatten(1).mean(1)
