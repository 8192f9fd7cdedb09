"""What a model learns and how samples come of it: the one interface between the engine and DDPM, flow, or another.

A user's own is named by `diffusion.target` (docs/bring_your_own.md). Another of ours is a module beside `gaussian.py`
and `flow.py`, its name in `make_objective` and in `fcdm/config/samplers.py`, and a file in `fcdm/conf/objective/`.
Another sampler is a function beside those of its objective, and its name in `fcdm/config/samplers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from fcdm.randomness import Asked

Denoise = Callable[[Tensor, Tensor], Tensor]
"""denoise(x (n, C, ...), t (n,)) -> (n, C or 2C, ...), guided or not; t as `Objective.times` are."""

Noise = Callable[[int], Tensor]
"""noise(k) -> like the start, standard normal: for the step that leaves k steps to go, where a sampler adds noise."""

OnStep = Callable[[int, Tensor], None]
"""Called as on_step(left, x) after each step, `left` counting down to 0; an exception in it ends the sampling."""


class Loss(NamedTuple):
    """Terms per image, each (n,) float32: `loss` is trained on; `vb` is None without learned sigma."""

    loss: Tensor
    mse: Tensor
    vb: Tensor | None


@dataclass(frozen=True)
class Sampling:
    """What of a protocol the samplers read; each leaves the fields of others alone."""

    sampler: str
    steps: int = 50
    """Even steps; `dopri5` takes those that it needs."""
    clip_denoised: bool = False
    """`ddpm`, `ddim`: clip the predicted data to [-1, 1] at each step (for pixels, not for latents)."""
    atol: float = 1e-6
    rtol: float = 1e-3
    """`dopri5`: the error that it allows in a step is atol + rtol |x|."""
    last_step: float = 0.04
    """`sde`: the size of its last step, in (0, 1)."""


class Solution(NamedTuple):
    """Samples, and what they cost."""

    x: Tensor
    """Like the start."""
    nfe: Tensor
    """(n,) int64: calls of `denoise` that the sample needed, and would have needed alone. A call is for the whole
    batch, so that the batch made nfe.max() of them."""


class Objective(Protocol):
    """Data x0 (n, C, ...), noise alike, times t (n,); an output has C channels, or 2C with a learned variance."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """What `evaluation.sampler` may be."""

    @property
    def times(self) -> Asked:
        """What each image of a batch draws as its training time, of shape (), under Purpose.TIMESTEP."""

    def times_in_bin(self, number: int, bins: int, u: Tensor) -> Tensor:
        """Times t (n,) in bin `number` of `bins` equal ones from data to noise, at u (n,) in [0, 1) of the bin."""

    def diffusion_time(self, t: Tensor) -> Tensor:
        """0 for data to 1 for noise, (n,) float64: what guidance intervals are said in."""

    def corrupt(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t: what the model sees."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the output's first C channels learn to be, by least squares."""

    def loss(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """In float32, whatever the output's type. Raises ValueError for an output of another shape."""

    def sample(
        self, denoise: Denoise, start: Tensor, noise: Noise, settings: Sampling, on_step: OnStep | None = None
    ) -> Solution:
        """From `start`, standard normal, to data: each sample a function of its own start, label and noises alone.

        Raises UserError: a sampler of another objective, too few or too many steps, tolerances that are not positive.
        """
