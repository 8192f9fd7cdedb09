"""Checkpoints are written while training goes on: what is written, when it stands, and how it is interrupted."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fcdm.engine import checkpoint
from fcdm.engine.checkpoint import load_checkpoint
from fcdm.engine.distributed import Ranks
from fcdm.engine.host_copy import HostCopy
from fcdm.engine.saver import Saver
from fcdm.engine.state import TrainState
from fcdm.engine.train import train
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.records import RecordWriter
from fcdm.runs.run_lock import RunHeld
from tests.support.commands import TINY, Command, composed, environment, evaluations, only_run, values, weights
from tests.support.silent import Silent
from tests.support.tiny_runs import tiny_run

CPU = torch.device("cpu")
ONE = Ranks(0, 1, CPU)
PATIENCE = 120.0


class Gate:
    """Holds up whoever writes tensors until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    real, held = checkpoint._bytes_of, Gate()

    def bytes_of(tensor: Tensor) -> memoryview:
        held.reached.set()
        assert held.opened.wait(PATIENCE)
        return real(tensor)

    monkeypatch.setattr(checkpoint, "_bytes_of", bytes_of)
    yield held
    held.opened.set()


Parts = tuple[Run, TrainState, Saver]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A run with a checkpoint of step 4, and a saver that keeps step 20, and of the others one."""
    run, config, state = tiny_run(tmp_path, "checkpoint.keep=1", "power_ema.sigma_rel=[0.05,0.1]", steps=[4])
    with RecordWriter(run.records) as records, Saver(run, config, state, records, ONE, {20}) as saver:
        yield run, state, saver


def go_to(state: TrainState, step: int) -> None:
    """As training does it: in place."""
    state.step = step
    with torch.no_grad():
        for parameter in [*state.model.parameters(), *state.ema.parameters()]:
            parameter.fill_(step)
    state.loss_sum += 1.0


def steps_of(folder: Path) -> list[int]:
    return [step for step, _ in checkpoints(folder)]


def written(folder: Path, step: int) -> set[float]:
    """The values of all weights and their average in a checkpoint."""
    tensors, _ = load_checkpoint(folder / f"step-{step:08d}", ["model", "ema"])
    members = [item for group in tensors.values() for item in group.items()]
    return {float(value) for name, tensor in members if "freqs" not in name for value in tensor.unique()}


def test_what_is_written_is_the_state_of_its_step(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 7)
    loss_sum = state.loss_sum.clone()
    saver.save()
    assert gate.reached.wait(PATIENCE)
    assert steps_of(run.checkpoints) == [4], "save returns while the thread writes"
    go_to(state, 9)
    gate.opened.set()
    saver.finish()
    assert steps_of(run.checkpoints) == [7], "the one before goes once the new one is whole"
    tensors, manifest = load_checkpoint(run.checkpoints / "step-00000007")
    assert torch.equal(tensors["optimiser"]["loss_sum"], loss_sum)
    assert manifest["step"] == 7
    assert written(run.checkpoints, 7) == {7.0}


def test_a_snapshot_too_is_of_its_step_and_comes_before_a_later_checkpoint(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 7)
    expected = {name: {key: t.clone() for key, t in group.items()} for name, group in state.power.groups().items()}
    saver.snapshot()
    assert gate.reached.wait(PATIENCE)
    for group in state.power.groups().values():
        for tensor in group.values():
            tensor.zero_()
    go_to(state, 9)
    gate.opened.set()
    saver.save()
    assert steps_of(run.snapshots) == [7]
    saver.finish()
    found, _ = load_checkpoint(run.snapshots / "step-00000007")
    for name, group in expected.items():
        for key, tensor in group.items():
            assert torch.equal(found[name.removeprefix("power-")][key], tensor), (name, key)
    assert steps_of(run.checkpoints) == [9]


def test_records_are_on_disk_before_the_checkpoint_after_them(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    _, state, saver = parts
    real, order = os.fsync, []

    def note(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    go_to(state, 7)
    saver.save()
    saver.finish()
    assert order[0] == "records.jsonl"
    assert "manifest.json" in order


def test_a_full_disk_in_the_thread_reaches_the_caller(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    run, state, saver = parts
    real = checkpoint.write_tensors

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    go_to(state, 7)
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    assert not saver.is_due()
    saver.save()
    wait_until(saver.is_due)
    with pytest.raises(
        UserError, match=r"step-00000007: the disk is full .* while saving the checkpoint of step 7"
    ) as caught:
        saver.save()
    assert "\n" not in str(caught.value)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]
    monkeypatch.setattr(checkpoint, "write_tensors", real)
    saver.save()
    saver.finish()
    assert steps_of(run.checkpoints) == [7]


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE * 100)):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


def open_once_given_up(saver: Saver, gate: Gate) -> None:
    def wait_and_open() -> None:
        saver._give_up.wait(PATIENCE)
        gate.opened.set()

    threading.Thread(target=wait_and_open, daemon=True).start()


def test_a_stop_gives_up_what_a_later_checkpoint_makes_up_for(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 7)
    saver.save()
    assert gate.reached.wait(PATIENCE)
    go_to(state, 9)
    open_once_given_up(saver, gate)
    saver.stop(snapshot=True)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000009"]
    assert steps_of(run.snapshots) == [9]
    assert written(run.checkpoints, 9) == {9.0}


def test_a_stop_waits_for_a_checkpoint_that_is_kept(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 20)
    saver.save()
    assert gate.reached.wait(PATIENCE)
    go_to(state, 21)
    threading.Timer(0.1, gate.opened.set).start()
    saver.stop(snapshot=False)
    assert steps_of(run.checkpoints) == [20, 21]


def test_a_run_that_is_lost_is_written_to_no_more(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 7)
    saver.save()
    assert gate.reached.wait(PATIENCE)
    open_once_given_up(saver, gate)
    saver.__exit__(RunHeld, RunHeld("another holds it"), None)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]


def test_numbers_that_are_not_finite_leave_what_is_being_written(parts: Parts, gate: Gate) -> None:
    run, state, saver = parts
    go_to(state, 7)
    saver.save()
    assert gate.reached.wait(PATIENCE)
    state.bad_step = torch.tensor(8)
    threading.Timer(0.1, gate.opened.set).start()
    with pytest.raises(UserError, match=r"not finite at step 8: .* the checkpoint of step 7 is kept"):
        saver.stop(snapshot=False)
    assert steps_of(run.checkpoints) == [7]


def test_room_is_kept_for_the_next_copy_and_tied_tensors_stay_one() -> None:
    host, weight = HostCopy(CPU), torch.arange(6.0).reshape(2, 3)
    groups = {
        "model": {"a": weight, "b": weight, "t": weight.t(), "none": torch.empty(0, 4), "flag": torch.tensor(True)}
    }
    first = host.of(groups)["model"]
    places = [tensor.data_ptr() for tensor in first.values()]
    assert first["a"] is first["b"]
    assert torch.equal(first["t"], weight.t())
    weight.zero_()
    assert first["a"].sum() == 15
    second = host.of(groups)["model"]
    assert [tensor.data_ptr() for tensor in second.values()] == places
    assert second["a"].sum() == 0


def test_training_ends_soon_after_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the budget, which is hours away."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    words = ("model=N", "model.width=8", "steps=[100000]", "keep_steps=[3]", f"runs_dir={tmp_path}", *TINY)
    (job,) = make_jobs([composed(*words, "threads=1")])
    run = job.open()
    with pytest.raises(UserError, match=r"the disk is full .* of step 3"):
        train(run, job.parts[:1], Worker(ONE, Silent()), keep=set())
    assert not list(run.checkpoints.iterdir())


# ------------------------------------------------------------------------------------------ whole processes

STEPS = "steps=[20,40]"
SLOW = ("checkpoint.every_steps=7", "checkpoint.keep=2", "log_every=3", "power_ema.sigma_rel=[0.05,0.10]")

INTERRUPTED = """
import os, runpy, signal, sys, time
from fcdm.engine import checkpoint
from fcdm.engine.state import TrainState

what, words = sys.argv[1], sys.argv[2:]
real, advance = checkpoint.write_tensors, TrainState.advance
steps = []

def counted(self, *rest):
    advance(self, *rest)
    steps.append(self.step)

def write(path, *rest):
    done = real(path, *rest)
    if path.parent.name.startswith(".tmp-step-00000014") and path.name.startswith("ema"):
        while steps[-1] < 16:  # training goes on meanwhile
            time.sleep(0.01)
        print("at", steps[-1], file=sys.stderr, flush=True)
        os.kill(os.getpid(), getattr(signal, what))
        time.sleep(1)
    return done

TrainState.advance, checkpoint.write_tensors = counted, write
sys.argv = ["fcdm.train", *words]
runpy.run_module("fcdm.train", run_name="__main__")
"""


def interrupted(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    """Train, and get this signal while the checkpoint of step 14 is being written and training is at 16 at least."""
    words = [sys.executable, "-c", INTERRUPTED, what, "model=N", STEPS, *TINY, *SLOW]
    return subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "fcdm.train", "model=N", STEPS, *TINY, *SLOW]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=240)
    return only_run(folder / "runs")


@pytest.mark.parametrize("what", ["SIGKILL", "SIGTERM"])
def test_a_signal_while_the_thread_writes(fcdm: Command, tmp_path: Path, undisturbed: Path, what: str) -> None:
    ended = interrupted(tmp_path, what)
    run = only_run(tmp_path / "runs")
    at = re.search(r"at (\d+)", ended.stderr)
    assert at is not None, ended.stderr
    if what == "SIGKILL":
        assert ended.returncode == -signal.SIGKILL
        assert steps_of(run / "checkpoints") == [7]
        assert list((run / "checkpoints").glob(".tmp-step-00000014-*"))
    else:
        assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
        assert max(steps_of(run / "checkpoints")) >= int(at[1]), "what stopped is on disk"
        assert not list((run / "checkpoints").glob(".*"))
    done = fcdm("model=N", STEPS, *TINY, *SLOW)
    assert done.returncode == 0, done.stderr
    for step in (20, 40):
        assert weights(run, step) == weights(undisturbed, step)
    assert values(run) == values(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)
    assert not [path for path in run.rglob("*") if path.name.startswith(".")], "something was left behind"
