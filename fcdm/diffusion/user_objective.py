"""An objective of the user's own: built, looked over and tried; whatever goes wrong is one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fcdm.config.load_code import build, refuse
from fcdm.config.schema import DiffusionConfig
from fcdm.config.user_code import OBJECTIVE, UserCode
from fcdm.diffusion.objective import Objective, Sampling
from fcdm.errors import UserError
from fcdm.randomness import Draws, Integers, Normal, Purpose, Uniform, normal

METHODS = ("times_in_bin", "diffusion_time", "corrupt", "target", "loss", "sample")
"""Of an `Objective`, besides `times` and `samplers`."""
TOLERANCE = 1e-3
"""Of samples that are drawn alone and beside others."""


def own_objective(config: DiffusionConfig) -> Objective:
    """What `diffusion.target` gives, made once. Raises UserError: it cannot be built, or lacks something."""
    assert config.target is not None
    code = UserCode(OBJECTIVE, config.target, config.options, config.source)
    key = code.identity, config.learn_sigma
    if code.source is None or key not in _built:
        _built[key] = _looked_over(code, build(code, {"learn_sigma": config.learn_sigma}))
    return _built[key]


_built: dict[tuple[str, bool], Objective] = {}


def _looked_over(code: UserCode, found: Any) -> Objective:
    whole = ", ".join(("samplers", "times", *METHODS))
    for name in ("samplers", "times", *METHODS):
        if not hasattr(found, name) or (name in METHODS and not callable(getattr(found, name))):
            raise UserError(
                f"{code} has no {name}: an objective has {whole} (fcdm/diffusion/objective.py); one derived from "
                "fcdm.diffusion.flow.FlowMatching says only what differs"
            )
    names = found.samplers
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{code}: samplers is {names!r}: a tuple of the names that evaluation.sampler may be")
    times = found.times
    if not isinstance(times, Normal | Uniform | Integers) or times.shape != () or times.purpose != Purpose.TIMESTEP:
        raise UserError(
            f"{code}: times is {times!r}: Uniform(Purpose.TIMESTEP, ()), Integers(Purpose.TIMESTEP, T) or "
            "Normal(Purpose.TIMESTEP, ()) of fcdm.randomness"
        )
    return found  # type: ignore[no-any-return]


def try_objective(code: UserCode, *, channels: int, side: int, learn_sigma: bool, sampler: str, steps: int) -> None:
    """Use all of it once, on a few random images, as training and sampling do. Raises UserError."""
    config = DiffusionConfig("custom", learn_sigma=learn_sigma, target=code.target, options=code.options)
    config.source = code.source
    trial = _Trial(code, own_objective(config), (channels, side, side), 2 if learn_sigma else 1)
    if sampler not in trial.objective.samplers:
        raise UserError(unknown_sampler(sampler, trial.objective, str(code)))
    trial.training()
    trial.times()
    trial.sampling(Sampling(sampler, min(steps, 1000)))


def unknown_sampler(sampler: str, objective: Objective, name: str) -> str:
    return f"evaluation.sampler={sampler} is none of {name}: write {', '.join(objective.samplers)}"


class _Trial:
    def __init__(self, code: UserCode, objective: Objective, shape: tuple[int, ...], outputs: int) -> None:
        self.code, self.objective, self.shape, self.outputs = code, objective, shape, outputs
        self.places = torch.arange(3)

    def call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.objective, method)(*arguments)
        except Exception as error:
            refuse(self.code, f".{method}() cannot be run", error)

    def tensor(self, method: str, found: Any, shape: tuple[int, ...]) -> Tensor:
        """What the method gave, if it is finite numbers of this shape."""
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"{self.code}: {method} gives {kind}; it must be a tensor of shape {shape}")
        if not bool(found.isfinite().all()):
            raise UserError(f"{self.code}: {method} gives numbers that are not finite")
        return found

    def training(self) -> None:
        n = len(self.places)
        x0, noise, t = Draws(
            0,
            self.places,
            Normal(Purpose.POSTERIOR, self.shape),
            Normal(Purpose.NOISE, self.shape),
            self.objective.times,
        )(0)
        x_t = self.tensor("corrupt", self.call("corrupt", x0, t, noise), (n, *self.shape))
        self.tensor("target", self.call("target", x0, noise, t), (n, *self.shape))
        output = normal(0, Purpose.MODEL, 0, self.places, (self.outputs * self.shape[0], *self.shape[1:]))
        output.requires_grad_(True)
        losses = getattr(self.call("loss", output, x0, x_t, t, noise), "loss", None)
        losses = self.tensor("loss (its field `loss`, a fcdm.diffusion.objective.Loss)", losses, (n,))
        if not losses.requires_grad:
            raise UserError(f"{self.code}: loss does not depend on the model's output by any gradient")
        (gradient,) = torch.autograd.grad(losses[0], output)
        if bool(gradient[1:].any()):
            raise UserError(
                f"{self.code}: an image's loss depends on the others of its batch, and so on micro_batch: one loss for "
                "each image, of that image alone"
            )

    def times(self) -> None:
        means = []
        for number in range(10):
            u = torch.tensor([0.0, 0.5, 1 - 2**-24])
            t = self.call("times_in_bin", number, 10, u)
            t = self.tensor("times_in_bin", t, (3,))
            time = self.tensor("diffusion_time", self.call("diffusion_time", t), (3,)).double()
            if not bool(((time >= -1e-6) & (time <= 1 + 1e-6)).all()):
                raise UserError(f"{self.code}: diffusion_time gives {time.tolist()}: 0 for data to 1 for noise")
            means.append(float(time.mean()))
        if means != sorted(means):
            raise UserError(f"{self.code}: times_in_bin must go from data (bin 0) to noise by diffusion_time")

    def sampling(self, settings: Sampling) -> None:
        start = normal(0, Purpose.SAMPLE_START, 0, self.places, self.shape)
        together = self._sample(start, self.places, settings)
        alone = self._sample(start[1:2], self.places[1:2], settings)
        if not torch.allclose(together[1:2], alone, rtol=TOLERANCE, atol=TOLERANCE):
            raise UserError(
                f"{self.code}: a sample depends on the others of its batch: each is a function of its own start, label "
                "and noises alone"
            )

    def _sample(self, start: Tensor, places: Tensor, settings: Sampling) -> Tensor:
        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if tuple(x.shape) != tuple(start.shape) or tuple(t.shape) != (len(start),):
                raise UserError(
                    f"{self.code}: sample calls denoise(x, t) with shapes {tuple(x.shape)} and {tuple(t.shape)}; they "
                    f"must be {tuple(start.shape)} and {(len(start),)}"
                )
            return torch.cat([0.1 * x] * self.outputs, 1)

        def noise(k: int) -> Tensor:
            return normal(0, Purpose.SAMPLE_STEP, k, places, self.shape)

        found = self.call("sample", denoise, start, noise, settings)
        self.tensor(
            "sample (its field `nfe`, a fcdm.diffusion.objective.Solution)", getattr(found, "nfe", None), (len(start),)
        )
        return self.tensor("sample (its field `x`)", getattr(found, "x", None), tuple(start.shape))
