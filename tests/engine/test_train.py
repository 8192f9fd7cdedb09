"""The training loop where the command line cannot reach: a signal at a given step."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from fcdm.engine.distributed import Ranks
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.engine.train import train
from fcdm.engine.worker import Worker
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.run_paths import checkpoint_name
from tests.support.commands import TINY, composed


class StopsAt:
    """A progress that is told to stop as soon as it hears of a step."""

    def __init__(self, step: int, stop: StopSignal) -> None:
        self.step, self.stop = step, stop

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        if step == self.step:
            self.stop.signum = signal.SIGTERM

    def sampling(self, step: int, done: int, samples: int) -> None: ...
    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None: ...
    def note(self, text: str) -> None: ...


def test_a_signal_at_a_budget_s_last_step_loses_none_of_its_snapshots(tmp_path: Path) -> None:
    """The resume goes on after it, and an average of another length needs the snapshot of each budget."""
    words = ("model=N", "steps=[2,4]", "power_ema.sigma_rel=[0.05,0.10]", f"runs_dir={tmp_path}", *TINY)
    (job,) = make_jobs([composed(*words, "threads=1")])
    run, ranks = job.open(), Ranks(0, 1, torch.device("cpu"))
    for step in (2, 4):
        stop = StopSignal()
        with pytest.raises(Stopped):
            train(run, job.parts[:1], Worker(ranks, StopsAt(step, stop), stop), keep=set())
    train(run, job.parts[:1], Worker(ranks, StopsAt(0, StopSignal())), keep=set())
    names = [checkpoint_name(2), checkpoint_name(4)]
    assert sorted(path.name for path in run.snapshots.iterdir()) == names
    assert [path.name[: len(names[0])] for path in sorted(run.evaluations.glob("step-*.json"))] == names


class Looks(StopsAt):
    """A progress that looks whether torch is deterministic while it trains."""

    def __init__(self) -> None:
        super().__init__(0, StopSignal())
        self.seen: set[bool] = set()

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        self.seen.add(torch.are_deterministic_algorithms_enabled())


@pytest.mark.parametrize("asked", [True, False])
def test_training_is_deterministic_unless_asked_otherwise(tmp_path: Path, asked: bool) -> None:
    words = (
        "model=N",
        "steps=2",
        f"runs_dir={tmp_path}",
        *TINY,
        "threads=1",
        *([] if asked else ["deterministic=false"]),
    )
    (job,) = make_jobs([composed(*words)])
    run, looks = job.open(), Looks()
    train(run, job.parts[:1], Worker(Ranks(0, 1, torch.device("cpu")), looks, looks.stop), keep=set(), evaluate=False)
    assert looks.seen == {asked}
    assert not torch.are_deterministic_algorithms_enabled()
    start = json.loads(run.records.read_text().splitlines()[0])
    assert start["deterministic"] is asked
