"""Process, loss, samplers and guidance against what the public codes answer (`tests/data/golden_*.npz`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcdm.config.schema import DiTConfig, FCDMConfig, ModelConfig
from fcdm.diffusion import Process
from fcdm.diffusion.ddpm_loss import training_loss
from fcdm.diffusion.gaussian import ddim_step, predict
from fcdm.diffusion.guidance import Guided
from fcdm.models import build_model
from tests.support.golden import DATA, GoldenInputs, golden_inputs, golden_weights, load_official, names_shapes

PROCESS = Process.create()
CONFIGS: dict[str, ModelConfig] = {
    "fcdm_s": FCDMConfig(name="S", width=128, blocks=[2, 4, 8, 4, 2]),
    "dit_s2": DiTConfig(name="S/2", patch_size=2, depth=12, width=384, heads=6),
}


class Case(NamedTuple):
    model: nn.Module
    golden: dict[str, NDArray[np.float64]]
    inputs: GoldenInputs


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    model = build_model(CONFIGS[name], channels=4, side=32, classes=1000, learn_sigma=True).eval()
    load_official(model, golden_weights(names_shapes(f"official_{name}_state_dict.tsv")))
    with np.load(DATA / f"golden_{name}.npz") as golden:
        return Case(model, dict(golden), golden_inputs())


def assert_near(ours: Tensor, golden: NDArray[np.float64], relative: float = 1e-5) -> None:
    """Relative to the tensor's norm."""
    reference = torch.from_numpy(golden)
    assert ours.shape == reference.shape
    error = ((ours.double() - reference).norm() / reference.double().norm()).item()
    assert error < relative, f"relative error {error:.2e}"


@pytest.mark.parametrize("steps", [50, 250])
def test_respaced_process(steps: int) -> None:
    process = PROCESS.respaced(steps)
    with np.load(DATA / "golden_fcdm_s.npz") as golden:
        np.testing.assert_array_equal(process.timesteps, golden[f"timesteps_{steps}"])
        np.testing.assert_allclose(process.betas, golden[f"betas_{steps}"], rtol=1e-12)
        np.testing.assert_allclose(
            process.posterior_log_variance, golden[f"posterior_log_variance_{steps}"], rtol=1e-12
        )


@torch.no_grad()
def test_training_loss(case: Case) -> None:
    _, t, labels, data, noise = case.inputs
    x_t = PROCESS.q_sample(data, t, noise)
    loss = training_loss(PROCESS, case.model(x_t, t, labels), data, x_t, t, noise)
    assert loss.vb is not None
    assert_near(loss.mse, case.golden["mse"])
    assert_near(loss.vb, case.golden["vb"])
    assert_near(loss.loss, case.golden["loss"])
    # By image too: the bound's terms differ in size by powers of ten.
    np.testing.assert_allclose(loss.vb.numpy(), case.golden["vb"], rtol=1e-5)


@torch.no_grad()
def test_sampling_steps(case: Case) -> None:
    x, _, labels, _, _ = case.inputs
    process = PROCESS.respaced(50)
    t = torch.full((3,), 20)
    output = case.model(x, process.tables(x.device).timesteps[t], labels)
    prediction = predict(process, output, x, t)
    assert_near(prediction.mean, case.golden["p_mean_50_at_20"])
    assert_near(prediction.log_variance, case.golden["p_logvar_50_at_20"])
    assert_near(ddim_step(process, prediction, t), case.golden["ddim_50_at_20"])


@torch.no_grad()
def test_guided_forward(case: Case) -> None:
    """The public code answers with the guided noise in both halves; beside it, each half has its own rest."""
    x = case.inputs.x[:1]
    ours = Guided(case.model, torch.tensor([207]), 1000, 4.0, channels=3)(x, torch.tensor([417]))
    assert_near(ours, case.golden["cfg"][:1])
    assert_near(ours[:, :3], case.golden["cfg"][1:, :3])
