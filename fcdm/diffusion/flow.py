"""Flow matching on the linear path: training loss, and what a velocity says of score, noise and data.

SiT (arXiv 2401.08740, section 2) with its public code's direction of time, t in [0, 1]: t = 0 noise, t = 1 data
(the paper counts the other way). A time enters the model as it is, not times 1000; and for training it is a number
uniform in [0, 1), such as `fcdm.randomness.uniform` draws. There are no variance channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.diffusion.loss import Loss


def interpolate(data: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = t data + (1 - t) noise: alpha_t and sigma_t of the linear path.

    Args:
        data: (n, ...) float32.
        t: (n,) in [0, 1].
        noise: like data, standard normal.
    """
    time = like(t, data)
    return time * data + (1.0 - time) * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """d x_t / d t = data - noise, which the model learns the mean of; the same at each t of the linear path."""
    return data - noise


def flow_loss(output: Tensor, data: Tensor, noise: Tensor) -> Loss:
    """Mean squared error of the velocity, in float32, per sample; `Loss.mse` is the same and `Loss.vb` None.

    Args:
        output: (n, ...) predicted velocity, any float type.
        data, noise: (n, ...), of which x_t was made.

    Raises:
        ValueError: output of another shape, as of a model with variance channels.
    """
    if output.shape != data.shape:
        raise ValueError(f"a velocity has the data's shape {tuple(data.shape)}, not {tuple(output.shape)}")
    with torch.autocast(data.device.type, enabled=False):
        error = (output.float() - velocity_target(data.float(), noise.float())).square()
        # The added dimension lets samples be single numbers, (n,), too.
        mse = error[:, None].flatten(1).mean(1)
    return Loss(mse, mse, None)


def predict_data(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """E[data | x_t] = x_t + (1 - t) v, from the mean velocity v (n, ...) at t (n,)."""
    return x_t + (1.0 - like(t, x_t)) * velocity


def predict_noise(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """E[noise | x_t] = x_t - t v, from the mean velocity v (n, ...) at t (n,)."""
    return x_t - like(t, x_t) * velocity


def velocity_to_score(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The gradient of log p_t at x_t, -E[noise | x_t] / (1 - t) (SiT section 2); at t = 1 not finite.

    A sampler needs it times 1 - t only, which is `-predict_noise` and finite everywhere.
    """
    return -predict_noise(velocity, x_t, t) / (1.0 - like(t, x_t))


def score_to_velocity(score: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The inverse, v = (x_t + (1 - t) score) / t; at t = 0, where x_t is noise whatever the data, not finite."""
    time = like(t, x_t)
    return (x_t + (1.0 - time) * score) / time


def like(t: Tensor, x: Tensor) -> Tensor:
    """Numbers per sample (n,) in x's type, shaped (n, 1, ...) to broadcast against x (n, ...)."""
    return t.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
