"""Losses and samplers on a GPU: the CPU's numbers, and the host never waits for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fcdm.diffusion import GaussianDiffusion, Process
from fcdm.diffusion.ddpm_loss import training_loss
from fcdm.diffusion.guidance import Guided
from fcdm.diffusion.objective import Sampling
from fcdm.diffusion.solvers import FLOW_SAMPLERS, solve
from fcdm.randomness import Purpose, normal
from tests.support.gpu import never_waiting
from tests.support.mixture import TWO, draw

pytestmark = pytest.mark.gpu


def test_neither_loss_nor_sampling_waits_for_the_gpu(gpu: torch.device) -> None:
    process = Process.create()
    respaced, objective = process.respaced(4), GaussianDiffusion(process)
    positions, labels = torch.arange(2, device=gpu), torch.zeros(2, dtype=torch.int64, device=gpu)
    x0, t = torch.zeros(2, 4, 4, 4, device=gpu), torch.tensor([0, 3], device=gpu)
    weight = torch.full((), 0.1, device=gpu)

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([x, x], 1) * weight

    def everything() -> tuple[Tensor, Tensor]:
        noise = normal(0, Purpose.NOISE, 1, positions, (4, 4, 4))
        x_t = respaced.q_sample(x0, t, noise)
        loss = training_loss(respaced, model(x_t, t, labels), x0, x_t, t, noise).loss
        denoise = Guided(model, labels, 10, 2.0, 3)
        settings = Sampling("ddpm", 4, clip_denoised=True)
        end = objective.sample(denoise, noise, lambda k: normal(0, 7, k, positions, (4, 4, 4)), settings).x
        return loss, end

    everything()  # tables are made
    with never_waiting(gpu):
        loss, end = everything()
    assert loss.isfinite().all()
    assert end.isfinite().all()


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_flow_samples_are_the_cpus(gpu: torch.device, sampler: str) -> None:
    """And, but for dopri5, without ever waiting for the device."""
    start = draw(10, 6, 2)
    noises = {k: draw(11, 6, 2, step=k) for k in range(1, 20)}
    on_cpu = solve(TWO.velocity, start, lambda k: noises[k], Sampling(sampler, 20)).x
    there, noises_there = start.to(gpu), {k: x.to(gpu) for k, x in noises.items()}
    weight = torch.ones((), device=gpu)
    with never_waiting(torch.device("cpu") if sampler == "dopri5" else gpu):
        solve(lambda x, t: -x * weight * t[:, None], there, lambda k: noises_there[k], Sampling(sampler, 20))
    on_gpu = solve(TWO.velocity, there, lambda k: noises_there[k], Sampling(sampler, 20))
    torch.testing.assert_close(on_gpu.x.cpu(), on_cpu, rtol=1e-4, atol=1e-4)
    assert on_gpu.nfe.device == on_gpu.x.device
