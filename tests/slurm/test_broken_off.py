"""What breaks off half way, on a SLURM in memory and a made-up scancel: what may be in the queue is not forgotten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fcdm.config.schema import ResourcesConfig
from fcdm.errors import Unsure, UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import recorded, study_file
from fcdm.jobstatus.actions import end_jobs
from fcdm.jobstatus.collect import Looker
from fcdm.slurm import submit as submitting
from fcdm.slurm.client import Refused, Slurm
from fcdm.slurm.ledger import list_tasks
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.submit import submit
from tests.support.commands import composed
from tests.support.fake_scheduler import FakeScheduler

COMMAND = ["python", "-m", "fcdm.train", "-m", "model=N"]


class Goes(FakeScheduler):
    """Its controller goes away with the `last` submission, which says `said`."""

    last = 2
    said: UserError = UserError("SLURM does not answer")

    def submit(self, script: Path, *, array: str = "", dependency: str = "") -> str:
        if len(self.submissions) + 1 == self.last:
            self.down = "SLURM does not answer"
            raise self.said
        return super().submit(script, array=array, dependency=dependency)


def send(tmp_path: Path, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arrays, since the jobs ask for different resources."""
    monkeypatch.setattr(submitting, "take_snapshot", lambda runs_dir, models: tmp_path / "code")
    base = dataclasses.replace(composed("model=N"), steps=[10], runs_dir=str(tmp_path / "runs"))
    two = dataclasses.replace(base, seed=1, resources=ResourcesConfig(gpus=2))
    jobs = make_jobs([dataclasses.replace(base, resources=ResourcesConfig()), two])
    with recorded(jobs, COMMAND):
        submit(jobs, SlurmOptions(), scheduler, COMMAND)


def asked(tmp_path: Path) -> int:
    path = study_file(tmp_path / "runs", composed("model=N").study)
    return len(json.loads(path.read_text())["requests"]) if path.exists() else 0


def test_a_controller_that_goes_away_half_way_leaves_the_study_with_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Goes()
    with pytest.raises(Unsure, match=r"SLURM took job 1, and others may be in the queue: python -m fcdm\.status tells"):
        send(tmp_path, scheduler, monkeypatch)
    assert asked(tmp_path) == 2
    assert scheduler.active() == ["1_0"]
    assert len(list_tasks(tmp_path / "runs")) == 2


def test_one_that_may_have_been_taken_is_not_forgotten_and_one_refused_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Goes()
    scheduler.last = 1
    with pytest.raises(Unsure, match="its jobs may be in the queue"):
        send(tmp_path, scheduler, monkeypatch)
    assert asked(tmp_path) == 2
    scheduler = Goes()
    scheduler.last = 1
    scheduler.said = Refused("Unable to contact slurm controller (connect failure)")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match="none of the arrays: Unable to contact"):
        send(other, scheduler, monkeypatch)
    assert asked(other) == 0
    assert not list_tasks(other / "runs")


def test_what_scancel_does_not_end_stays_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = FakeScheduler()
    scheduler.accept, scheduler.keeps = 1, {"1": "Access/permission denied"}
    with pytest.raises(Unsure, match=r"1: Access/permission denied.*fcdm\.status tells"):
        send(tmp_path, scheduler, monkeypatch)
    assert asked(tmp_path) == 2


@pytest.mark.parametrize(
    ("said", "second", "third"),
    [
        ("scancel: error: Socket timed out on send/recv operation", "may be", "not"),
        ("scancel: fatal: Unable to contact", "not", "not"),
    ],
)
def test_an_answer_that_is_lost_half_way_denies_nothing_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, second: str, third: str
) -> None:
    """More jobs than one scancel takes: the second call fails."""
    first, scancel = tmp_path / "first", tmp_path / "scancel"
    scancel.write_text(f'#!/bin/sh\n[ -e {first} ] || {{ : > {first}; exit 0; }}\necho "{said}" >&2; exit 1\n')
    scancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ids = [str(job) for job in range(1, 451)]
    done = end_jobs(Looker(tmp_path, Slurm), {(None, job): "N" for job in ids})
    assert done.lines == [f"cancelled job {job} of N" for job in ids[:200]]
    assert f"{second} cancelled: 201, " in done.problem
    assert done.problem.count("may be cancelled") == (second == "may be")
    assert "cancelled: 401, " in done.problem if second != third else ", 401, " in done.problem
