"""Compiled models on a GPU: what eager ones answer, and resumed bit for bit. The last gpu tests, for they take long."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.run_job import train_here
from tests.support.commands import TINY, composed, only_run, weights
from tests.support.gpu import ROUNDING, answer, compare, network_config, stirred

# Torch's compiler and Triton warn of their own doings.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize(("family", "precision"), [("fcdm", "fp32"), ("dit", "fp32"), ("fcdm", "bf16")])
def test_compiled_is_eager(
    gpu: torch.device, family: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the smallest models, since compiling takes time; on a CPU without its C++ compiler, which takes most of it."""
    if gpu.type == "cpu" and precision == "bf16":
        pytest.skip("on a CPU in float32 alone: another half minute tells nothing more")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    less = {"fcdm": ("model=N", "model.width=8"), "dit": ("model=dit/N-2", "model.depth=1")}[family]
    config = network_config(family, gpu, *less, f"precision={precision}", "resolution=8")
    model = stirred(config, gpu)
    expected = tuple(tensor.detach().clone() for tensor in answer(model, config, gpu))
    backend = "inductor" if gpu.type == "cuda" else "aot_eager"
    try:
        found = answer(torch.compile(model, fullgraph=True, backend=backend), config, gpu, of=model)  # type: ignore[arg-type]
    finally:
        torch.compiler.reset()
    # In half precision eager rounds after each operation, and what is fused does not.
    compare(found, expected, ROUNDING if precision == "fp32" else 0.1)


def test_a_resumed_compiled_run_is_the_undisturbed_one_bit_for_bit(
    cuda: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))

    def train(runs: str, steps: str) -> Path:
        asked = ("model=N", "resolution=32", "precision=bf16", "compile=true", "device=cuda")
        (job,) = make_jobs([composed(*TINY, *asked, f"runs_dir={runs}", f"steps={steps}")])
        train_here(job, forward=True)
        return only_run(tmp_path / runs)

    straight = train("straight", "6")
    train("halves", "3")
    assert weights(train("halves", "6"), 6) == weights(straight, 6)
