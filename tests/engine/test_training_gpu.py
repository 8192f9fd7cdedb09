"""Training on a GPU: resumed, in half precision, in parts, as one of several ranks, waiting for nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fcdm.config.schema import Config
from fcdm.diffusion import make_objective
from fcdm.engine.batches import Batch
from fcdm.engine.distributed import Ranks
from fcdm.engine.environment import matmul_precision
from fcdm.engine.state import TrainState
from fcdm.engine.train_step import TrainStep
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.run_job import train_here
from tests.support.commands import TINY, Command, composed, only_run, records, values, weights
from tests.support.gpu import FAMILIES, apart, batch_of, network_config, never_waiting, stir

pytestmark = pytest.mark.gpu

ONE = (0, 1)
"""Rank and world size of a process alone."""


def made(config: Config, device: torch.device, rank: tuple[int, int] = ONE) -> tuple[TrainState, TrainStep]:
    state = TrainState.create(config, device)
    return state, TrainStep(config, make_objective(config.diffusion), state, Ranks(*rank, device))


def first_moments(state: TrainState) -> list[torch.Tensor]:
    """After one step: the gradients, times 1 - beta_1."""
    return [state.optimiser.state[weight]["exp_avg"] for weight in state.weights]


Train = Callable[..., Path]


@pytest.fixture
def train(gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`train("runs", "[3,6]", "model=N")` trains there, and evaluates, in this process; returns the run's folder."""
    monkeypatch.chdir(tmp_path)
    where = ("compile=false", f"device={gpu.type}", f"resolution={32 if gpu.type == 'cuda' else 8}")

    def run(runs: str, steps: str, *asked: str) -> Path:
        (job,) = make_jobs([composed(*TINY, *where, *asked, f"runs_dir={runs}", f"steps={steps}")])
        train_here(job, forward=True)
        return only_run(tmp_path / runs)

    return run


def segments(run: Path) -> list[dict[str, Any]]:
    return [line for line in records(run) if line.get("segment") == "start"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["N", "dit/N-2"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(train: Train, model: str, precision: str) -> None:
    asked = f"model={model}", f"precision={precision}"
    straight = train("straight", "[3,6]", *asked)
    train("halves", "3", *asked)
    halves = train("halves", "[3,6]", *asked)
    assert len(segments(halves)) == 2
    assert weights(halves, 6) == weights(straight, 6)
    assert values(halves) == values(straight)


def test_a_run_goes_on_on_a_cpu_and_comes_back(train: Train, gpu: torch.device) -> None:
    asked = "model=N", "precision=fp32", "power_ema.sigma_rel=[0.05]"
    stayed = train("stayed", "[2,4,6]", *asked)
    train("moved", "2", *asked)
    train("moved", "[2,4]", *asked, "device=cpu")
    moved = train("moved", "[2,4,6]", *asked)
    assert [line["device"] == "cpu" for line in segments(moved)] == [gpu.type == "cpu", True, gpu.type == "cpu"]
    assert weights(moved, 2) == weights(stayed, 2)
    for (step, key), value in values(stayed).items():
        if key in ("loss", "heldout_loss"):
            assert values(moved)[step, key] == pytest.approx(value, rel=1e-2), (step, key)


def test_the_command_line_trains_and_samples_there(gpu: torch.device, fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("model=N", "steps=2", f"device={gpu.type}", "compile=false", *TINY)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    name = torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else "cpu"
    assert [line["device"] for line in segments(run)] == [name]
    drawn = fcdm(run.name, "samples=8", f"device={gpu.type}", "out=drawn", module="fcdm.sample")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "drawn" / "samples.npz").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_losses_follow_those_of_fp32(gpu: torch.device, family: str) -> None:
    """20 steps from the same weights with the same batches, at a rate that brings the loss down."""
    losses = {}
    for precision in ("fp32", "bf16"):
        config = network_config(family, gpu, f"precision={precision}", "optimiser.lr=3e-4")
        state, step = made(config, gpu)
        losses[precision] = []
        with matmul_precision(precision):
            for number in range(20):
                step(batch_of(config, state.model, gpu, number))
                losses[precision].append(float(state.loss_sum))
                state.start_window()
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["bf16"][-1] < 0.95 * losses["bf16"][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_make_the_same_step(gpu: torch.device, family: str) -> None:
    found = []
    for parts in ("null", "5"):
        config = network_config(family, gpu, "precision=fp32", f"micro_batch={parts}")
        state, step = made(config, gpu)
        stir([state.model])
        with matmul_precision("fp32"):
            norm = step(batch_of(config, state.model, gpu), measure_norm=True)
        found.append(([*first_moments(state), state.loss_sum], norm))
    (whole, norm), (parts_, norm_of_parts) = found
    assert apart(parts_, whole) < 1e-4
    assert float(norm_of_parts) == pytest.approx(float(norm), rel=1e-4)


@contextlib.contextmanager
def group_of_one(device: torch.device) -> Iterator[None]:
    """A process group with this process alone in it, as `Ranks.from_environment` makes those of several."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_through_ddp_nccl_and_gloo_the_step_is_the_same(gpu: torch.device) -> None:
    """One GPU cannot be two ranks: this one takes itself for the first of two, in a group of one. Sums are its own."""
    config = network_config("fcdm", gpu, "precision=fp32", "micro_batch=5")
    alone, plain_step = made(config, gpu)
    stir([alone.model])
    batch = batch_of(config, alone.model, gpu)
    with matmul_precision("fp32"):
        plain_step(batch)
    with group_of_one(gpu), matmul_precision("fp32"):
        state = TrainState.create(config, gpu)
        stir([state.model])  # before DDP takes the weights
        ranks = Ranks(0, 2, gpu)
        TrainStep(config, make_objective(config.diffusion), state, ranks)(batch)
        assert apart(first_moments(state), first_moments(alone)) < 1e-4
        assert 2 * float(state.loss_sum) == pytest.approx(float(alone.loss_sum), rel=1e-5)  # the mean over "two"
        assert ranks.highest(3.0, -1.0) == [3.0, -1.0]
        assert ranks.of_first({"a": 1}) == {"a": 1}
        assert float(ranks.sum(torch.ones((), device=gpu))) == 1.0
        ranks.barrier()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_nothing(gpu: torch.device, family: str, precision: str) -> None:
    config = network_config(family, gpu, f"precision={precision}", "micro_batch=8", "optimiser.clip_grad_norm=1.0")
    state, step = made(config, gpu)
    batches: list[Batch] = [batch_of(config, state.model, gpu, number) for number in range(3)]
    with matmul_precision(precision):
        for batch in batches[:2]:  # tables and moments are made
            step(batch)
        with never_waiting(gpu):
            step(batches[2])
    assert state.step == 3
    assert state.broken_at() is None


def test_precision_says_how_products_are_made(cuda: torch.device) -> None:
    """TF32 keeps 10 bits of a significand: 5e-4 of a product; float32 24."""
    a, b = (torch.randn(512, 512, device=cuda, dtype=torch.float64) for _ in range(2))
    x = torch.randn(8, 32, 16, 16, device=cuda, dtype=torch.float64)
    w = torch.randn(32, 32, 3, 3, device=cuda, dtype=torch.float64)
    exact = a @ b, torch.nn.functional.conv2d(x, w)
    for precision, low, high in (("fp32", 0.0, 1e-5), ("tf32", 1e-4, 1e-2), ("bf16", 1e-4, 1e-2)):
        with matmul_precision(precision):
            found = a.float() @ b.float(), torch.nn.functional.conv2d(x.float(), w.float())
        for one, right in zip(found, exact, strict=True):
            assert low <= apart([one], [right]) < high, precision
