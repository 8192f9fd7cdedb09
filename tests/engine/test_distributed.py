"""Several processes: a resume is bit for bit, nothing is sent that need not be, and compiled models train the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from fcdm.data.dataset import open_dataset
from fcdm.diffusion import make_objective
from fcdm.engine.batches import BatchSource
from fcdm.engine.distributed import Ranks
from fcdm.engine.state import TrainState
from fcdm.engine.train_step import TrainStep, parallel
from fcdm.errors import UserError
from tests.support.commands import TINY, Command, composed, environment, only_run, ranks_of, values, weights


def _four_ranks(folder: Path, *words: str) -> Path:
    """Train on four processes; the run's folder."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m"),
            *("fcdm.train", "model=N", *TINY, "checkpoint.keep=9", f"runs_dir={folder}", *words),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return only_run(folder)


@pytest.mark.parametrize("words", [(), ("micro_batch=2", "activation_checkpointing=true")])
def test_a_resume_on_four_ranks_is_bit_for_bit(tmp_path: Path, words: tuple[str, ...]) -> None:
    straight = _four_ranks(tmp_path / "straight", "steps=8", *words)
    _four_ranks(tmp_path / "resumed", "steps=4", *words)
    resumed = _four_ranks(tmp_path / "resumed", "steps=8", *words)
    assert {"model.safetensors", "ema.safetensors", "optimiser.safetensors"} <= weights(straight, 8).keys()
    assert weights(resumed, 8) == weights(straight, 8)
    losses = {step: value for (step, key), value in values(straight).items() if key == "loss"}
    assert {step: value for (step, key), value in values(resumed).items() if key == "loss"} == losses


def test_one_after_another_in_the_same_processes(tmp_path: Path) -> None:
    """The second group finds nothing of the first, for which torchrun keeps one store (it hung there)."""
    words = ("-m", "fcdm.train", "-m", "model=N", "steps=2,4", "seed=0,1", *TINY, "runs_dir=runs")
    ranks = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*ranks, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/evaluations/step-00000004-*.json"))) == 2


def test_one_named_gpu_for_several_ranks_is_refused(fcdm: Command) -> None:
    """In one line, before the ranks look for each other, and whether there is a GPU or not."""
    done = fcdm("model=N", "device=cuda:0", **ranks_of(2)[0], timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("device=cuda:0 would put all 2 processes on one GPU: write device=cuda")
    assert done.stderr.count("\n") == 1


def test_of_several_ranks_one_says_so_and_a_device_without_a_number_is_not_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ranks_of(2)[1].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        Ranks.from_environment("cuda:1")
    assert ended.value.code == 0
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no CUDA device"):
            Ranks.from_environment("cuda")


def _in_two(work: Callable[[Ranks], None]) -> None:
    """Do the work in two processes of one group, its errors raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, work), nprocs=2)


def _rank(rank: int, port: int, work: Callable[[Ranks], None]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), **address)
    torch.set_num_threads(1)
    ranks = Ranks.from_environment("cpu")
    work(ranks)
    ranks.barrier()
    ranks.close()


def _step(ranks: Ranks, *words: str) -> tuple[TrainStep, BatchSource]:
    config = composed(*words, *TINY)
    objective = make_objective(config.diffusion)
    state = TrainState.create(config, ranks.device)
    columns = int(state.model.label_embedders)  # type: ignore[arg-type]
    data = open_dataset(config, ranks.device)
    batches = BatchSource(config, data, objective, columns, *ranks.share(config.batch_size))
    return TrainStep(config, objective, state, ranks), batches


def test_fixed_tables_are_not_sent() -> None:
    _in_two(_counts_messages)


def _counts_messages(ranks: Ranks) -> None:
    step, batches = _step(ranks, "model=dit/N-2")
    assert [name for name, _ in step.state.model.named_buffers()] == ["position_embedding"]
    step(batches.draw(0))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(batches.draw(1))
    calls = {event.key: event.count for event in seen.key_averages() if event.key.startswith("gloo:")}
    assert "gloo:all_reduce" in calls
    assert "gloo:broadcast" not in calls


def test_the_pass_before_the_first_step_leaves_nothing_behind() -> None:
    _in_two(_looks_around)


def _looks_around(ranks: Ranks) -> None:
    step, batches = _step(ranks, "model=N", "micro_batch=3")
    state = step.state
    before = [weight.detach().clone() for weight in state.weights]
    drawn = torch.get_rng_state()
    step._settle_buckets(batches.draw(0).split(3)[0])
    assert all(torch.equal(a, b) for a, b in zip(before, state.weights, strict=True))
    assert all(weight.grad is None for weight in state.weights)
    assert torch.equal(drawn, torch.get_rng_state())
    assert not state.optimiser.state
    assert (state.step, state.loss_count, float(state.loss_sum)) == (0, 0, 0.0)


def test_a_compiled_model_trains_in_one_graph_on_two_ranks() -> None:
    _in_two(_compiles)


def _compiles(ranks: Ranks) -> None:
    """Without Inductor, which takes minutes on a CPU."""
    for words in (("model=N", "model.blocks=[1,1,1,1,1]"), ("model=dit/N-2", "model.depth=1")):
        plain, batches = _step(ranks, *words, "micro_batch=4", "activation_checkpointing=true")
        compiled, _ = _step(ranks, *words, "micro_batch=4", "activation_checkpointing=true")
        counters.clear()
        whole = torch.compile(compiled.state.model, backend="aot_eager", fullgraph=True)
        compiled.model = parallel(whole, ranks)
        for number in range(2):
            plain(batches.draw(number))
            compiled(batches.draw(number))
        assert counters["stats"]["unique_graphs"] == 1
        torch.testing.assert_close(compiled.state.loss_sum, plain.state.loss_sum, rtol=1e-3, atol=0)
