"""A job's requeue of itself, with an scontrol of shell lines: what counts, what is tried again, what ends it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.folder import Run
from fcdm.slurm import requeue as requeueing
from fcdm.slurm.ledger import read_ids
from fcdm.slurm.requeue import note_start, progress_of, requeue, requeues
from tests.support.commands import composed

RUNS = 'echo "JobId=7 JobState=RUNNING Restarts=0 PreemptTime=None"'
AWAY = 'echo "Unable to contact slurm controller" >&2; exit 1'


class Lab:
    """A run, its frozen job, and an scontrol; `asked` lists what it was asked to requeue."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = dataclasses.replace(composed("model=N"), steps=[10, 20], runs_dir=str(folder / "runs"))
        (job,) = make_jobs([config])
        self.run: Run = job.open()
        self.path = job.freeze()
        self.folder, self.log = folder, folder / "requeued.txt"
        self.environment = monkeypatch.setenv
        self.environment("PATH", str(folder), prepend=os.pathsep)
        self.environment("SLURMD_NODENAME", "node1")
        self.environment("SLURM_ARRAY_JOB_ID", "7")
        self.environment("SLURM_ARRAY_TASK_ID", "3")
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        monkeypatch.setattr(requeueing, "AGAIN_S", 0.01)
        self.scontrol(RUNS)

    def scontrol(self, show: str, requeue: str = "exit 0") -> None:
        program = self.folder / "scontrol"
        program.write_text(f'#!/bin/sh\nif [ "$1" = requeue ]; then echo "$2" >> {self.log}; {requeue}; fi\n{show}\n')
        program.chmod(0o755)

    def asked(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def checkpoint(self, step: int) -> None:
        (self.run.checkpoints / f"step-{step:08d}").mkdir(parents=True)

    def start_again(self, restart: int) -> None:
        self.environment("SLURM_RESTART_COUNT", str(restart))
        note_start(self.path)

    def announced(self) -> bool:
        return self.path.with_suffix(".requeueing.json").exists()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_a_job_is_requeued_as_long_as_there_is_progress(lab: Lab) -> None:
    for step in (10, 20, 30):
        lab.checkpoint(step)
        assert progress_of(lab.run) == [step, 0, 0]
        assert requeue(lab.path, lab.run, 12, None)
    assert lab.asked() == ["7_3"] * 3
    assert [entry["step"] for entry in requeues(lab.path)] == [10, 20, 30]
    with pytest.raises(UserError, match="no progress between two requeues"):
        requeue(lab.path, lab.run, 12, None)
    lab.checkpoint(40)
    with pytest.raises(UserError, match="max_num_timeout=3"):
        requeue(lab.path, lab.run, 12, 3)
    assert len(lab.asked()) == 3
    lab.environment("SLURM_ARRAY_JOB_ID", "8")
    assert requeue(lab.path, lab.run, 12, 3)  # a retry is another job, and begins anew
    assert len(requeues(lab.path)) == 4
    assert read_ids(lab.path) == ()


def test_a_controller_that_comes_back_requeues(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """It is away twice, and away once more between its answer and the requeue: counted once."""
    away = lab.folder / "away"
    away.write_text("1\n2\n")
    once = f"if [ -s {away} ]; then sed -i 1d {away}; {AWAY}; fi"
    lab.scontrol(f"{once}\n{RUNS}", f"if [ ! -e {away}.3 ]; then touch {away}.3; {AWAY}; fi; exit 0")
    assert requeue(lab.path, lab.run, 12, 1, patience=60)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == [
        *["SLURM does not answer"] * 2,
        "SLURM does not requeue job 7_3",
    ]
    assert all("trying again for" in line for line in said)
    assert len(requeues(lab.path)) == 1
    lab.start_again(1)
    assert len(requeues(lab.path)) == 1, "the process counted it; the next start does not once more"


def test_a_controller_that_stays_away_fails_the_job_and_counts_nothing(lab: Lab) -> None:
    lab.scontrol(AWAY)
    with pytest.raises(UserError, match=r"7_3 is not requeued: SLURM does not answer \(Unable to contact .*--retry"):
        requeue(lab.path, lab.run, 12, None, patience=0.1)
    assert requeues(lab.path) == []
    assert not lab.announced()
    lab.scontrol(RUNS)
    assert requeue(lab.path, lab.run, 12, 1), "without progress, but the first that happens"


def test_what_slurm_refuses_twice_is_not_asked_for_ten_minutes(lab: Lab) -> None:
    lab.scontrol(RUNS, 'echo "Job is not requeueable" >&2; exit 1')
    began = time.monotonic()
    with pytest.raises(UserError, match="job 7_3 is not requeued: Job is not requeueable"):
        requeue(lab.path, lab.run, 12, None)
    assert time.monotonic() - began < 60
    assert len(lab.asked()) == 2
    assert requeues(lab.path) == []
    lab.environment("SLURM_ARRAY_JOB_ID", "8")
    note_start(lab.path)
    assert requeues(lab.path) == [], "--retry-failed is another job: no requeue"
    assert not lab.announced()


def test_without_scontrol_it_fails_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that lacks SLURM's commands."""
    monkeypatch.setenv("PATH", str(lab.run.folder))
    with pytest.raises(UserError, match="no scontrol where the job runs"):
        requeue(lab.path, lab.run, 12, None)


def test_scancel_while_slurm_does_not_answer_ends_it_for_good(lab: Lab) -> None:
    lab.scontrol(AWAY)
    assert not requeue(lab.path, lab.run, 12, None, is_ended=lambda: True)
    assert requeues(lab.path) == []


@pytest.mark.parametrize(
    "show",
    [
        'echo "JobId=7 JobState=PENDING Restarts=1 PreemptTime=None"',
        'echo "JobId=7 JobState=COMPLETING Restarts=1 PreemptTime=None"',
    ],
)
def test_a_requeue_whose_answer_was_lost_counts_once_and_is_not_asked_twice(lab: Lab, show: str) -> None:
    lab.checkpoint(10)
    lab.scontrol(f"if [ -e {lab.log} ]; then {show}; else {RUNS}; fi", AWAY)
    assert requeue(lab.path, lab.run, 12, None)
    assert len(lab.asked()) == 1
    lab.start_again(1)
    assert [(entry["job"], entry["step"]) for entry in requeues(lab.path)] == [("7_3", 10)]
    assert not lab.announced()


def test_killed_between_the_requeue_and_its_count(lab: Lab) -> None:
    """Once, by its next start, which is the proof; not by a start that is no later one."""
    lab.checkpoint(10)
    lab.scontrol(RUNS, "kill -9 $PPID")
    if not (child := os.fork()):
        try:
            requeue(lab.path, lab.run, 12, None)
        finally:
            os._exit(0)  # not on into the tests, whatever it raises
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert requeues(lab.path) == []
    assert lab.announced()
    lab.start_again(1)
    assert [entry["progress"] for entry in requeues(lab.path)] == [[10, 0, 0]]
    lab.scontrol('echo "JobId=7 JobState=RUNNING Restarts=1 PreemptTime=None"')
    with pytest.raises(UserError, match="no progress between two requeues"):
        requeue(lab.path, lab.run, 12, None)
    lab.start_again(2)
    assert len(requeues(lab.path)) == 1


def test_a_preemption_is_no_lack_of_progress(lab: Lab) -> None:
    assert requeue(lab.path, lab.run, 12, None)
    lab.scontrol('echo "JobId=7 JobState=RUNNING Restarts=0 PreemptTime=2026-01-01T00:00:00"')
    assert requeue(lab.path, lab.run, 10, None)
    assert [entry.get("preempted") for entry in requeues(lab.path)] == [None, True]
