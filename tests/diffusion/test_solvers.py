"""Samplers of velocity models, on data whose velocity, flow and moments are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor, nn

from fcdm.diffusion import dopri5 as rk
from fcdm.diffusion.objective import Sampling, Solution
from fcdm.diffusion.solvers import FLOW_SAMPLERS, solve
from fcdm.errors import UserError
from tests.support.mixture import GAUSSIAN, LINE, TWO, Mixture, draw


def no_noise(index: int) -> Tensor:
    raise AssertionError(f"a deterministic sampler asked for noise {index}")


def run(world: Mixture, start: Tensor, sampler: str, steps: int = 50, **more: float) -> Solution:
    noise: Callable[[int], Tensor] = no_noise
    if sampler == "sde":

        def noise(k: int) -> Tensor:
            return draw(99, len(start), *start.shape[1:], step=k)

    return solve(world.velocity, start, noise, Sampling(sampler, steps, **more))  # type: ignore[arg-type]


def exact_gaussian(start: Tensor) -> Tensor:
    """The ODE's flow for N(m, s^2): (x_t - t m) / std_t does not change, so x_0 = z goes to m + s z."""
    return torch.tensor(GAUSSIAN.centres[0], dtype=start.dtype) + GAUSSIAN.stds[0] * start


def exact_line(start: Tensor) -> Tensor:
    """In one dimension a flow keeps quantiles: CDF of the data at x_1 = CDF of N(0, 1) at x_0; by bisection."""
    target = norm.cdf(start.double().numpy())
    low, high = np.full_like(target, -9.0), np.full_like(target, 9.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        cdf = sum(
            share * norm.cdf((middle - centre[0]) / std)
            for share, centre, std in zip(LINE.shares, LINE.centres, LINE.stds, strict=True)
        )
        low, high = np.where(cdf < target, middle, low), np.where(cdf < target, high, middle)
    return torch.from_numpy(low)


# --- order of convergence, sample by sample, in float64 ---


@pytest.mark.parametrize(("world", "exact"), [(GAUSSIAN, exact_gaussian), (LINE, exact_line)], ids=["1", "2"])
@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(sampler: str, order: int, world: Mixture, exact: Callable[[Tensor], Tensor]) -> None:
    """Halving the step divides the greatest error of 64 samples by 2 and by 4."""
    start = draw(1, 64, len(world.centres[0])).double()
    errors = [(run(world, start, sampler, steps).x - exact(start)).abs().max().item() for steps in (160, 320, 640)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order] * 2, abs=0.1), f"errors {errors}"


@pytest.mark.parametrize(("world", "exact"), [(GAUSSIAN, exact_gaussian), (LINE, exact_line)], ids=["1", "2"])
def test_dopri5_keeps_its_tolerance(world: Mixture, exact: Callable[[Tensor], Tensor]) -> None:
    """The error follows the tolerance down, and the cost grows like tolerance^(-1/5).

    The tolerance is a step's. What a step leaves is stretched by the flow: between the two components, where it
    tears apart what is near, some 100 times, and some 10 times elsewhere.
    """
    start = draw(2, 64, len(world.centres[0])).double()
    tolerances = (1e-3, 1e-5, 1e-7, 1e-9)
    solutions = [run(world, start, "dopri5", atol=tol, rtol=tol) for tol in tolerances]
    errors = [(solution.x - exact(start)).abs().max().item() for solution in solutions]
    for tol, error in zip(tolerances, errors, strict=True):
        assert error < (200 if world is LINE else 20) * tol, f"errors {errors}"
    calls = [solution.nfe.double().mean().item() for solution in solutions]
    for fewer, more in pairwise(calls):
        assert fewer < more < 100**0.2 * 1.3 * fewer


def test_dopri5_is_of_order_five() -> None:
    """One step of size h has an error of h^6, and its estimate one of h^5; the fourth-order weights are such."""

    def errors(h: float) -> tuple[float, float]:
        x, stages = torch.ones(1, 1, dtype=torch.float64), []
        slope, end = partial(_oscillator, 0.3), x
        stages.append(slope(x, 0.0))
        for node, weights in zip(rk.NODES, rk.WEIGHTS, strict=True):
            end = x + h * rk._combine(weights, stages)
            stages.append(slope(end, node * h))
        estimate = h * rk._combine(rk.ERROR, stages)
        exact = math.exp((math.sin(0.3 + 3 * h) - math.sin(0.3)) / 3)
        return abs(end.item() - exact), abs(estimate.item())

    for (coarse, fine), order in zip(zip(errors(0.05), errors(0.025), strict=True), (6, 5), strict=True):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def _oscillator(phase: float, x: Tensor, t: float) -> Tensor:
    return math.cos(phase + 3 * t) * x


def test_dopri5_tableau() -> None:
    """Rows sum to their nodes, and both sets of weights to 1: of order one at least, whatever is mistyped."""
    for node, weights in zip(rk.NODES, rk.WEIGHTS, strict=True):
        assert math.fsum(weights) == pytest.approx(node, abs=1e-14)
    assert math.fsum(rk.FOURTH_ORDER) == pytest.approx(1, abs=1e-14)
    assert math.fsum(rk.ERROR) == pytest.approx(0, abs=1e-14)


# --- distributions ---


@pytest.mark.parametrize("world", [GAUSSIAN, TWO], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_moments(sampler: str, world: Mixture) -> None:
    """20,000 samples have the data's mean and covariance within five standard errors plus what the steps leave.

    That is 0.01 of euler, 0.02 of sde (its last step of 0.04 adds no noise) and 1e-3 of heun, of 100 steps.
    """
    count = 20_000
    x = run(world, draw(3, count, 2), sampler, 100).x.double()
    allowed = {"euler": 0.01, "sde": 0.02}.get(sampler, 1e-3)
    mean, covariance = world.moments()
    variances = covariance.diag()
    assert torch.all((x.mean(0) - mean).abs() < 5 * (variances / count).sqrt() + allowed)
    fourth = (covariance.square() + variances[:, None] * variances) / count
    assert torch.all((torch.cov(x.T) - covariance).abs() < 5 * fourth.sqrt() + allowed)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_mixture_weights(sampler: str) -> None:
    """Shares of 30 % and 70 %, each component's mean and spread, within five standard errors of 8,000 samples.

    Those are 0.026 of a share, 0.026 of the smaller component's mean and 0.018 of its spread; 0.02 more for steps.
    """
    count = 8_000
    x = run(TWO, draw(4, count, 2), sampler, 100).x
    centres = torch.tensor(TWO.centres)
    component = (x[:, None] - centres).square().sum(-1).argmin(1)
    for c in (0, 1):
        mine = x[component == c]
        assert len(mine) / count == pytest.approx(TWO.shares[c], abs=0.026 + 0.01)
        torch.testing.assert_close(mine.mean(0), centres[c], rtol=0, atol=0.026 + 0.02)
        torch.testing.assert_close(mine.std(0), torch.full((2,), TWO.stds[c]), rtol=0, atol=0.018 + 0.02)


def sde_moments(steps: int, last_step: float) -> tuple[float, float]:
    """Mean and variance of `sde`'s samples of N(m, s^2), read off its answers to unit inputs: affine, so exact."""
    world = Mixture([1.0], [[0.7]], [0.4])
    start = torch.zeros(1 + steps, 1, dtype=torch.float64)
    start[1] = 1.0

    def noise(k: int) -> Tensor:
        impulse = torch.zeros_like(start)
        impulse[1 + k] = 1.0
        return impulse

    out = solve(world.velocity, start, noise, Sampling("sde", steps, last_step=last_step)).x.flatten()
    return out[0].item(), (out[1:] - out[0]).square().sum().item()


def test_sde_converges_weakly_with_order_one() -> None:
    """Mean and variance go to the SDE's at 0.96, and through the last step.

    There the marginal is N(0.96 m, 0.96^2 s^2 + 0.04^2), and the last step an affine map of it.
    """
    t, last, m, s = 0.96, 0.04, 0.7, 0.4
    variance = (t * s) ** 2 + (1 - t) ** 2
    # v = m + (t s^2 - (1 - t)) / variance (x - t m), and (1 - t) score = -(1 - t) (x - t m) / variance
    slope = (t * s**2 - 2 * (1 - t)) / variance
    limit = t * m + last * m, (1 + last * slope) ** 2 * variance
    found = [sde_moments(steps, last) for steps in (101, 201, 401)]
    # t m solves the equation of the mean, and Euler's steps follow a straight line exactly.
    np.testing.assert_allclose([mean for mean, _ in found], limit[0], rtol=0, atol=1e-9)
    errors = [abs(variance - limit[1]) for _, variance in found]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1, 1], abs=0.1), f"errors {errors}"
    assert errors[-1] < 3e-4


def test_sde_comes_to_the_data_as_its_last_step_shrinks() -> None:
    found = [np.abs(np.subtract(sde_moments(steps, 1 / steps), (0.7, 0.16))).max() for steps in (50, 100, 200, 400)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 2e-3


def test_sde_grid_is_the_public_one() -> None:
    """linspace(0, 0.96, S), each time once; noise for all but the last step, numbered as in `sample`."""
    times, noises, left = [], [], []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return torch.zeros_like(x)

    def noise(k: int) -> Tensor:
        noises.append(k)
        return torch.zeros(2, 1)

    solve(denoise, torch.ones(2, 1), noise, Sampling("sde", 6), on_step=lambda k, x: left.append(k))
    np.testing.assert_allclose(times, np.linspace(0, 0.96, 6), rtol=1e-6)
    assert noises == [5, 4, 3, 2, 1]
    assert left == [5, 4, 3, 2, 1, 0]


def test_sde_steps_by_hand() -> None:
    """dx = (v + (1 - t) s) dt + sqrt(2 (1 - t)) dW, with s = (t v - x) / (1 - t), for v = 3."""
    first, second = torch.tensor([[0.5]]), torch.tensor([[-2.0]])
    x = solve(
        lambda x, t: torch.full_like(x, 3.0),
        torch.tensor([[1.0]]),
        lambda k: {2: first, 1: second}[k],
        Sampling("sde", 3, last_step=0.2),
    ).x
    a = 1.0 + (3.0 - 1.0) * 0.4 + math.sqrt(2 * 0.4) * 0.5
    b = a + (3.0 + 0.4 * 3.0 - a) * 0.4 + math.sqrt(2 * 0.6 * 0.4) * -2.0
    c = b + (3.0 + 0.8 * 3.0 - b) * 0.2
    assert x.item() == pytest.approx(c, rel=1e-6)


# --- a sample is a function of its own start ---


class Net(nn.Module):
    """A small convolutional velocity that depends on t, so that rows have their own difficulty."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        hidden = torch.tanh(self.first(torch.cat([2 * x, 5 * time], 1)))
        out: Tensor = 3 * self.second(hidden) - x
        return out


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_sample_alone_is_the_sample_in_a_batch(sampler: str) -> None:
    """With rows of different difficulty beside it: 1e-5, float32 (and the same number of calls)."""
    net, scales = Net(), torch.tensor([0.01, 0.3, 1.0, 3.0, 10.0])
    start = draw(5, 5, 2, 6, 6) * scales.view(-1, 1, 1, 1)
    noises = partial(_noise_of, torch.arange(5))
    whole = solve(net, start, noises, Sampling(sampler, 20))
    for i in range(5):
        alone = solve(net, start[i : i + 1], partial(_noise_of, torch.tensor([i])), Sampling(sampler, 20))
        torch.testing.assert_close(alone.x[0], whole.x[i], rtol=1e-5, atol=1e-5)  # measured: 2e-6 at most
        assert alone.nfe[0] == whole.nfe[i]
    if sampler == "dopri5":
        assert len(whole.nfe.unique()) > 1


def _noise_of(positions: Tensor, k: int) -> Tensor:
    return torch.stack([draw(100 + int(i), 1, 2, 6, 6, step=k)[0] for i in positions])


# --- the mechanics ---


@settings(max_examples=25)
@given(shape=st.sampled_from([(0, 3), (1,), (4,), (2, 1), (3, 2, 2, 2)]), sampler=st.sampled_from(FLOW_SAMPLERS))
def test_shapes(shape: tuple[int, ...], sampler: str) -> None:
    """A velocity of -x, any shape: the ODE ends at start / e."""
    start = draw(6, shape[0], *shape[1:])
    kept = start.clone().requires_grad_()
    left: list[int] = []

    def decay(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == shape[:1]
        assert t.dtype == x.dtype == torch.float32
        assert bool(((t >= 0) & (t <= 1)).all())
        return -x

    end = solve(decay, kept, lambda k: 0 * start, Sampling(sampler, 64), on_step=lambda k, x: left.append(k))
    assert end.x.shape == shape
    assert end.x.dtype == torch.float32
    assert not end.x.requires_grad
    assert end.nfe.shape == shape[:1]
    assert torch.equal(kept, start)
    if shape[0] > 0:
        assert left[-1] == 0
    if sampler != "sde":  # that one's drift is not -x
        atol = {"euler": 0.02, "heun": 1e-4}.get(sampler, 2e-3)
        torch.testing.assert_close(end.x, start * math.exp(-1), rtol=0, atol=atol * 4)


@pytest.mark.parametrize(("sampler", "per_step"), [("euler", 1), ("heun", 2), ("sde", 1)])
def test_calls_are_counted(sampler: str, per_step: int) -> None:
    times: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return -x

    end = solve(denoise, draw(7, 3, 2), lambda k: torch.zeros(3, 2), Sampling(sampler, 7))
    assert end.nfe.tolist() == [7 * per_step] * 3
    assert len(times) == 7 * per_step
    if sampler == "heun":
        assert times[-1].tolist() == [1.0] * 3


def test_dopri5_counts_calls_per_sample() -> None:
    """Two to begin and six a step; the batch makes as many as its hardest sample needs."""
    calls = 0

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(torch.tensor([[0.0], [6.0], [25.0]]) * t[:, None]) * x

    end = solve(denoise, torch.ones(3, 1), no_noise, Sampling("dopri5"))
    assert calls == end.nfe.max() == end.nfe[2]
    assert torch.all((end.nfe - 2) % 6 == 0)
    assert end.nfe[0] < end.nfe[1] < end.nfe[2]
    exact = torch.tensor([[math.e], [math.exp(math.sin(6) / 6)], [math.exp(math.sin(25) / 25)]])
    torch.testing.assert_close(end.x, exact, rtol=5e-3, atol=0)


def test_state_stays_float32_under_autocast() -> None:
    net, start = Net(), draw(8, 2, 2, 6, 6)
    for sampler in FLOW_SAMPLERS:
        seen: list[Tensor] = []

        def denoise(x: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            out: Tensor = net(x, t)
            assert out.dtype == torch.bfloat16 or x.dtype == torch.float32
            return out.bfloat16()

        with torch.autocast("cpu", torch.bfloat16):
            end = solve(denoise, start, lambda k: torch.zeros_like(start), Sampling(sampler, 5, rtol=0.05))
        assert {x.dtype for x in [*seen, end.x]} == {torch.float32}


# --- refusals ---


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 0), ("heun", -1), ("sde", 1)])
def test_refuses_too_few_steps(sampler: str, steps: int) -> None:
    with pytest.raises(UserError, match=rf"sampling_steps must be at least \d for sampler {sampler}, not {steps}"):
        run(GAUSSIAN, draw(9, 1, 2), sampler, steps)


def test_refuses_other_samplers() -> None:
    with pytest.raises(UserError, match="sampler=ddpm is no sampler of a flow model: write euler, heun, dopri5 or sde"):
        run(GAUSSIAN, draw(9, 1, 2), "ddpm")


@pytest.mark.parametrize("last_step", [0.0, 1.0, -0.1])
def test_refuses_an_odd_last_step(last_step: float) -> None:
    with pytest.raises(UserError, match="last step of sampler sde must be between 0 and 1"):
        run(GAUSSIAN, draw(9, 1, 2), "sde", last_step=last_step)


@pytest.mark.parametrize(("atol", "rtol"), [(0.0, 1e-3), (1e-6, -1.0), (float("nan"), 1e-3)])
def test_refuses_tolerances_that_are_none(atol: float, rtol: float) -> None:
    with pytest.raises(UserError, match=r"evaluation\.atol and evaluation\.rtol must be positive"):
        run(GAUSSIAN, draw(9, 1, 2), "dopri5", atol=atol, rtol=rtol)


@pytest.mark.parametrize("after", [-1.0, 0.5])
def test_a_diverged_model_ends_dopri5(after: float) -> None:
    """NaN from the start, or past t = 0.5 in one of two samples: an error that names it, not an endless loop."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        bad = (t > after) & (torch.arange(len(t)) == 0)
        return torch.where(bad[:, None], float("nan"), -x)

    with pytest.raises(UserError, match=r"1 of 2 samples need steps under 1e-09. Has the model diverged"):
        solve(denoise, draw(9, 2, 2), no_noise, Sampling("dopri5"))


def test_too_many_steps_end_dopri5() -> None:
    with pytest.raises(UserError, match=r"did not reach the data in 2000 steps: raise .*now 1e-12 and 1e-12"):
        solve(
            lambda x, t: torch.cos(3000 * t)[:, None] * 1000 * x,
            torch.ones(1, 1, dtype=torch.float64),
            no_noise,
            Sampling("dopri5", atol=1e-12, rtol=1e-12),
        )


def test_an_exception_in_on_step_ends_the_sampling() -> None:
    def stop(left: int, x: Tensor) -> None:
        raise InterruptedError

    for sampler in FLOW_SAMPLERS:
        with pytest.raises(InterruptedError):
            solve(lambda x, t: -x, draw(9, 1, 2), lambda k: torch.zeros(1, 2), Sampling(sampler, 3), on_step=stop)
