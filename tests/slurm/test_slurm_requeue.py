"""A job puts itself back into the queue of a real SLURM: while its controller is away, and never without progress."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.slurm_lab import SMALL, STUDY, Lab, assert_undisturbed, starts

pytestmark = pytest.mark.slow


def test_a_controller_that_is_down_at_the_moment_of_a_requeue(here: Lab, undisturbed: Path) -> None:
    """The job tries again until it is back, as after an upgrade; the requeue is counted once, when it has happened."""
    here.sweep(*STUDY)
    run = here.wait_step(300)
    (job,) = here.ids()
    controller = here.cluster.daemons()["slurmctld"]
    with here.paused(run) as task:
        os.kill(controller, signal.SIGTERM)
        here.wait(lambda: "slurmctld" not in here.cluster.daemons(), "the controller's end")
        os.kill(task, signal.SIGUSR2)
    here.wait(lambda: "SLURM does not answer" in (run / "log.txt").read_text(), "the first try")
    assert not list(run.glob("jobs/*.requeues.json")), "nothing is counted that has not happened"
    here.cluster.up()
    here.wait(lambda: starts(run) == 2, "its second start")
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED", here.describe()
    (noted,) = run.glob("jobs/*.requeues.json")
    assert [(entry["job"], entry["signal"]) for entry in json.loads(noted.read_text())] == [(job, "SIGUSR2")]
    assert not list(run.glob("jobs/*.requeueing.json"))
    assert_undisturbed(run, undisturbed)


def test_a_job_without_progress_fails_with_the_reason(here: Lab) -> None:
    """Told to save in its first batch of samples, which it drops; no batch ever ends within a start.

    Told once a start, and only when the start has claimed the run: before a task has its handlers a signal kills it.
    """
    slow = ("evaluation.samples=2000", "evaluation.batch_size=1000", "evaluation.sampling_steps=1000")
    here.sweep("model=N", "steps=5", *SMALL, *slow)
    (job,) = here.ids()
    run = here.wait_step(5)
    for start in (1, 2):
        here.wait((run / f"holders/00000{start}.json").exists, f"start {start}")
        os.kill(here.task_pid(run), signal.SIGUSR1)
    here.wait_state(job, "FAILED")
    assert "no progress between two requeues" in (run / "log.txt").read_text()
    (noted,) = run.glob("jobs/*.error.json")
    assert "resources.hours" in json.loads(noted.read_text())["error"]
    (counted,) = run.glob("jobs/*.requeues.json")
    assert len(json.loads(counted.read_text())) == 1
