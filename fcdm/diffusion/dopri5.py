"""The adaptive Runge-Kutta method of order 5(4) of Dormand and Prince (1980), each sample with steps of its own.

A common step for the batch (as in torchdiffeq, SiT's solver) makes a sample depend on those beside it. Here each
row has its time, its step size and its own accepted and refused steps, so that it is a function of its start alone,
whatever the batch. The price: finished rows go on being fed to the model, at t = 1, until the last is done, so a
batch costs what its hardest sample costs; and the device is waited for once a step.

That holds to float32's rounding, 1e-5 and better, because steps grow threefold at most: a larger factor would be read
off an error estimate so small that it is rounding noise, which differs between batch sizes (tenfold growth was seen
to move samples by 1e-3). Rarely (an estimate: once in a million steps) whether a step is refused hangs on a rounding
difference; the sample then moves by about the tolerance. With a bfloat16 model all this holds to bfloat16's rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcdm.diffusion.objective import Denoise, OnStep
from fcdm.errors import UserError

# Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6 (1980), table 2; also
# Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", table II.5.2. The last row is the step of
# order 5: its stage is the next step's first (FSAL), for 6 calls a step.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
FOURTH_ORDER = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
ERROR = tuple(fifth - fourth for fifth, fourth in zip((*WEIGHTS[-1], 0.0), FOURTH_ORDER, strict=True))

SAFETY, SHRINK, GROW = 0.9, 0.2, 3.0
SMALLEST_STEP = 1e-9
STEPS_AT_MOST = 2000


def dopri5(
    denoise: Denoise,
    start: Tensor,
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Solve dx = denoise(x, t) dt from t = 0 to 1. Arguments and errors as in `fcdm.diffusion.solvers.solve`.

    A step is taken where the root mean square, over a sample's numbers, of error / (atol + rtol max(|x|, |x'|)) is
    at most 1; x and x' are the step's ends.

    Returns:
        x (n, ...) at t = 1, in the start's type, and calls per sample (n,) int64: 2 to begin, 6 a step.
    """
    if not (atol > 0.0 and rtol > 0.0):
        raise UserError(f"evaluation.atol and evaluation.rtol must be positive for sampler dopri5, not {atol}, {rtol}")

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return denoise(x, t.to(x.dtype)).to(x.dtype)

    x, n = start, len(start)
    t = torch.zeros(n, dtype=torch.float64, device=x.device)
    slope = velocity(x, t)
    h = first_step(velocity, x, slope, atol, rtol)
    calls = torch.full((n,), 2, device=x.device)
    refused = torch.zeros(n, dtype=torch.bool, device=x.device)
    for _ in range(STEPS_AT_MOST):
        active = t < 1.0
        unfinished, stuck = torch.stack([active.sum(), (active & ~(h >= SMALLEST_STEP)).sum()]).tolist()
        if stuck:
            raise UserError(
                f"sampler dopri5 cannot go on: {stuck} of {n} samples need steps under {SMALLEST_STEP:g}. Has the "
                "model diverged? Look with sampler heun, or raise evaluation.atol and evaluation.rtol"
            )
        if not unfinished:
            return x, calls
        left = 1.0 - t
        h = torch.minimum(h, left)
        stages = [slope]
        for node, weights in zip(NODES, WEIGHTS, strict=True):
            end = x + like(h, x) * _combine(weights, stages)
            stages.append(velocity(end, t + node * h))
        norm = _norm(like(h, x) * _combine(ERROR, stages), atol + rtol * torch.maximum(x.abs(), end.abs()))
        taken = active & (norm <= 1.0)

        # Hairer, Norsett and Wanner, eq. II.4.13, and no growth right after a refusal (as they advise there).
        factor = (SAFETY * norm.clamp(min=1e-10) ** -0.2).clamp(SHRINK, GROW)
        factor = torch.where(norm.isfinite(), factor, SHRINK)
        factor = torch.where(refused | ~taken, factor.clamp(max=1.0), factor)
        calls += 6 * active
        refused = active & ~taken
        mask = like(taken, x).bool()
        x, slope = torch.where(mask, end, x), torch.where(mask, stages[-1], slope)
        # A step to the end ends there, whatever t + (1 - t) rounds to.
        t = torch.where(taken, torch.where(h == left, 1.0, t + h), t)
        h = h * factor
        if on_step is not None:
            on_step(int((t < 1.0).sum()), x)
    if not bool((t < 1.0).any()):
        return x, calls
    raise UserError(
        f"sampler dopri5 did not reach the data in {STEPS_AT_MOST} steps: raise evaluation.atol and evaluation.rtol "
        f"(now {atol:g} and {rtol:g}), or use sampler heun"
    )


def first_step(velocity: Denoise, x: Tensor, slope: Tensor, atol: float, rtol: float) -> Tensor:
    """A first step size per sample, (n,) float64 (Hairer, Norsett and Wanner, section II.4); one call.

    Args:
        velocity: of x (n, ...) at t (n,).
        x, slope: (n, ...) the start and its velocity.
    """
    scale = atol + rtol * x.abs()
    size, speed = _norm(x, scale), _norm(slope, scale)
    guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=1.0)
    change = _norm(velocity(x + like(guess, x) * slope, guess) - slope, scale) / guess
    steepest = torch.maximum(speed, change)
    small = (guess * 1e-3).clamp(min=1e-6)
    second = torch.where(steepest <= 1e-15, small, (0.01 / steepest) ** 0.2)
    return torch.minimum(100.0 * guess, second).clamp(max=1.0)


def _combine(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        if weight != 0.0:
            total = torch.add(total, stage, alpha=weight)
    return total


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    """Root mean square of x / scale per sample: (n, ...) to (n,) float64."""
    return (x / scale)[:, None].flatten(1).double().square().mean(1).sqrt()


def like(t: Tensor, x: Tensor) -> Tensor:
    """Numbers per sample (n,) in x's type, shaped (n, 1, ...) to broadcast against x (n, ...)."""
    return t.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
