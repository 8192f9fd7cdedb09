"""What `fcdm.status` says and does: the logic against a SLURM in memory, in every state that a run can be in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE
from fcdm.jobs.progress import EVALUATION_PROGRESS_FILE, PROGRESS_FILE, FileProgress, read_progress
from fcdm.jobstatus import run_files
from fcdm.jobstatus.collect import Looker, what_is_asked
from fcdm.jobstatus.rows import STATES
from fcdm.jobstatus.run_files import read_tail
from fcdm.jobstatus.status_table import as_json, next_steps, plain_lines, what
from fcdm.slurm.client import Refused
from tests.support.fake_scheduler import FakeScheduler
from tests.support.status_world import BATCH, EVALUATION_SECONDS, OTHER, PROTOCOL, SPEED, World, dead_pid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def slurm(move: Callable[[World, str], object], step: int = 50, **facts: object) -> Callable[[World], None]:
    """A run that SLURM job 1_0 has trained to `step`; then `move` happens to that job."""

    def make(world: World) -> None:
        world.run(step=step, **facts)  # type: ignore[arg-type]
        (job,) = world.launch("N")
        if step:
            world.slurm_log(job)
        move(world, job)

    return make


def ended(state: str, exit_code: str = "0:0", **info: object) -> Callable[[World], None]:
    def move(world: World, job: str) -> None:
        world.scheduler.start(job)
        world.scheduler.end(job, state, exit_code)
        world.scheduler.set(job, **info)

    return slurm(move)


def running(world: World, job: str) -> None:
    world.scheduler.start(job)
    world.claim("N", job)


def failed_with_note(world: World, job: str) -> None:
    world.scheduler.fail(job)
    (world.runs / "N" / "log.txt").write_text("Traceback ...\n")
    world.note("N", "error", job, error="ValueError: 7 is not 8")


def completed_with_note(world: World, job: str) -> None:
    world.scheduler.end(job)
    world.note("N", "error", job, error="ValueError: 7 is not 8")


def stopped(world: World, job: str) -> None:
    world.scheduler.fail(job, "143:0")
    world.note("N", "stopped", job, signal="SIGTERM")


def cancelled_after_term(world: World, job: str) -> None:
    world.scheduler.start(job)
    world.scheduler.cancel([job])
    world.note("N", "stopped", job, signal="SIGTERM")


def forgotten(world: World, job: str) -> None:
    world.scheduler.fail(job, "137:0")
    world.scheduler.forget(job)


def forgotten_without_accounting(world: World, job: str) -> None:
    world.scheduler.accounting = False
    forgotten(world, job)


def down(world: World, job: str) -> None:
    world.scheduler.start(job)
    world.claim("N", job, beat=900)
    world.scheduler.down = "SLURM does not answer"


def down_but_beating(world: World, job: str) -> None:
    down(world, job)
    world.claim("N", job, beat=20)


def down_after_an_error(world: World, job: str) -> None:
    failed_with_note(world, job)
    world.scheduler.down = "SLURM does not answer"


def last_words(world: World, job: str) -> None:
    world.scheduler.fail(job, "1:0")
    world.slurm_log(job, "loading modules\nbash: python3.99: command not found\n\n")


CLOSING = """srun: error: node1: task 0: Exited with exit code 1
srun: Terminating StepId=1.0
srun: launch/slurm: _step_signal: Terminating StepId=1.0
srun: got SIGCONT
srun: forcing job termination
SIGTERM: saving and stopping at the next step
slurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED AT 2026-11-28T03:25:13 ***
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: node[1-2]: tasks 1,3: Killed
srun: error: Timed out waiting for job step to complete
[rank0]:[W1128 03:12:22.123456789 ProcessGroupNCCL.cpp:1496] Warning: destroy_process_group() was not called
"""
TORCHRUN = """E1128 03:12:22.1 4242 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: 1)
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
"""


def printed(text: str, code: str = "1:0", name: str = "log.txt") -> Callable[[World, str], None]:
    """A job that failed, left no note, and printed this last."""

    def move(world: World, job: str) -> None:
        world.scheduler.start(job)
        world.scheduler.end(job, "FAILED", code)
        if name == "log.txt":
            (world.runs / "N" / name).write_text(text)
        else:
            world.slurm_log(job, text)

    return move


def printed_before_it_was_submitted_again(world: World, job: str) -> None:
    printed("RuntimeError: of the job before\n")(world, job)
    os.utime(world.runs / "N" / "log.txt", (world.now - 500, world.now - 500))


def setup_failed_at_its_second_start(world: World, job: str) -> None:
    """The first start left a note; the second got no further than the batch script."""
    failed_with_note(world, job)
    printed("ValueError: 7 is not 8\nsetup line failed (exit code 127): module load cuda\n")(world, job)


def both_logs(own: str) -> Callable[[World, str], None]:
    """What the batch script printed came last."""

    def move(world: World, job: str) -> None:
        printed("KeyError: 'x'\n")(world, job)
        os.utime(world.runs / "N" / "log.txt", (world.now - 5, world.now - 5))
        world.slurm_log(job, own)

    return move


def died_at_its_second_start(world: World, job: str) -> None:
    """Of the first there is a note, which says which start it is of; the second ended before Python had begun."""
    world.note("N", "error", job, error="ValueError: 7 is not 8", restart=0)
    world.scheduler.requeue(job)
    printed("slurmstepd: error: execve(): /opt/venv/bin/python: No such file or directory\n")(world, job)


def failed_at_its_second_start(world: World, job: str) -> None:
    world.note("N", "error", job, error="ValueError: 7 is not 8", restart=1)
    world.scheduler.requeue(job)
    world.scheduler.fail(job)


def never_satisfied(world: World, job: str) -> None:
    world.scheduler.set(job, reason="DependencyNeverSatisfied", dependency="afterok:12(failed)")


def requeue_refused(world: World, job: str) -> None:
    """It noted a requeue that SLURM then refused."""
    entries = [{"job": job, "signal": "SIGUSR2"}]
    (world.runs / "N" / "jobs" / "1.requeues.json").write_text(json.dumps(entries))
    failed_with_note(world, job)


def preempted(world: World, job: str) -> None:
    world.scheduler.start(job)
    world.scheduler.requeue(job, preempted=True)
    world.scheduler.start(job)
    world.scheduler.requeue(job)


def requeued_itself(world: World, job: str) -> None:
    """Three times on a user's signal; the second was a preemption. SLURM has not counted the last one yet."""
    world.scheduler.requeue(job)
    world.scheduler.requeue(job)
    entries = [{"job": job, "signal": "SIGUSR2", "preempted": at == 1} for at in range(3)]
    path = world.runs / "N" / "jobs" / "1.requeues.json"
    path.write_text(json.dumps([{"job": "0_9", "signal": "SIGUSR2"}, *entries]))


def restarted_over_an_error(world: World, job: str) -> None:
    failed_with_note(world, job)
    world.scheduler.set(job, state="PENDING", reason="None")


def local(**facts: object) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.run(step=50)
        world.claim("N", here=True, **facts)  # type: ignore[arg-type]

    return make


def local_segment(**facts: object) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.run(step=50)
        world.claim("N", here=True, released=True)
        world.segment_end("N", **facts)

    return make


def local_note(kind: str, **facts: object) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.run()
        world.job_file("N")
        world.claim("N", here=True, released=True)
        world.note("N", kind, None, **facts)

    return make


def continued_locally(world: World) -> None:
    """Its SLURM job failed; then somebody went on with it here and stopped it."""
    slurm(failed_with_note)(world)
    slurm_file = world.runs / "N" / "jobs" / "1.slurm.json"
    os.utime(slurm_file, (world.now - 500, world.now - 500))
    world.claim("N", here=True, age=100, released=True)
    world.segment_end("N", stopped="SIGINT")


# name: (how it comes about, the state, what the text says)
STATE_CASES: dict[str, tuple[Callable[[World], object], str, str]] = {
    "just submitted": (slurm(lambda w, j: w.scheduler.set(j, reason="None"), 0), "waiting", "in the queue"),
    "priority": (slurm(lambda w, j: None, 0), "waiting", "other jobs come first"),
    "resources": (slurm(lambda w, j: w.scheduler.set(j, reason="Resources")), "waiting", "for free nodes, at step 50"),
    "requeued": (slurm(preempted), "waiting", "starts soon, at step 50/100, preempted 1 time, requeued 2 times"),
    "requeued by itself": (slurm(requeued_itself), "waiting", "preempted 1 time, requeued 3 times"),
    "begins later": (slurm(lambda w, j: w.scheduler.set(j, reason="BeginTime"), 0), "waiting", "it is to begin at"),
    "held": (slurm(lambda w, j: w.scheduler.set(j, reason="JobHeldUser"), 0), "waiting", "scontrol release 1_0"),
    "held as real SLURM says it": (
        slurm(lambda w, j: w.scheduler.set(j, reason="job requeued in held state")),
        "waiting",
        "scontrol release 1_0",
    ),
    "limit": (slurm(lambda w, j: w.scheduler.set(j, reason="QOSMaxGRESPerUser")), "waiting", "a limit of your account"),
    "unknown reason": (slurm(lambda w, j: w.scheduler.set(j, reason="Moon_phase")), "waiting", "Moon phase"),
    "node starts": (slurm(lambda w, j: w.scheduler.set(j, state="CONFIGURING"), 0), "waiting", "prepared"),
    "error of an earlier start": (slurm(restarted_over_an_error), "waiting", "in the queue"),
    "no claim yet": (slurm(lambda w, j: w.scheduler.start(j)), "running", "starting"),
    "running": (slurm(running), "running", "step 50/100, 640 images/s, ETA 5 s, last record 5 s ago"),
    "ending": (slurm(lambda w, j: w.scheduler.set(j, state="COMPLETING")), "running", "ending"),
    "failed with a word": (slurm(failed_with_note), "failed", "ValueError: 7 is not 8, log:"),
    "failed, says COMPLETED": (slurm(completed_with_note), "failed", "ValueError: 7 is not 8"),
    "kill -9 of the task": (ended("FAILED", "9:0"), "failed", "killed by SIGKILL"),
    "kill -9 as squeue has it": (ended("FAILED", "137:0"), "failed", "killed by SIGKILL"),
    "kill -9 of the script": (ended("FAILED", "0:9"), "failed", "killed by SIGKILL"),
    "segmentation fault": (ended("FAILED", "139:0"), "failed", "killed by SIGSEGV"),
    "last words": (slurm(last_words), "failed", "python3.99: command not found"),
    "above srun's closing lines": (slurm(printed(f"KeyError: 'x'\n{CLOSING}")), "failed", "KeyError: 'x', log:"),
    "above torchrun's": (slurm(printed(f"KeyError: 'x'\n{TORCHRUN}{CLOSING}")), "failed", "KeyError: 'x', log:"),
    "only closing lines": (slurm(printed(CLOSING, "3:0")), "failed", "exit code 3:0, log:"),
    "srun's own reason": (
        slurm(printed("srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_GPU are mutually exclusive.\n")),
        "failed",
        "srun: fatal: SLURM_MEM_PER_CPU",
    ),
    "no interpreter": (
        slurm(printed(f"slurmstepd-node1: error: execve(): python3.99: No such file or directory\n{CLOSING}", "2:0")),
        "failed",
        "execve(): python3.99",
    ),
    "words of the start before": (
        slurm(printed("SIGUSR2: saved; back into the queue as job 1_0\n")), "failed", "exit code 1:0",
    ),
    "words of the start before, which SLURM ended": (
        slurm(printed(
            "KeyError: 'x'\nslurmstepd-node1: error: *** STEP 3.0 ON node1 CANCELLED AT 2026-11-28T04:06:35 DUE TO JOB "
            f"REQUEUE ***\n{CLOSING}"
        )),
        "failed",
        "exit code 1:0",
    ),
    "words of the job before": (slurm(printed_before_it_was_submitted_again), "failed", "exit code 1:0"),
    "above a teardown": (slurm(both_logs("copying the scratch back\n")), "failed", "KeyError: 'x', log:"),
    "the script's own trouble": (
        slurm(both_logs("0.sh: line 9: srun: command not found\n")), "failed", "srun: command not found, log:",
    ),
    "a line of setup": (
        slurm(printed("setup line failed (exit code 127): module load cuda\n")),
        "failed",
        "setup line failed (exit code 127): module load cuda, log:",
    ),
    "a line of setup, after a note": (slurm(setup_failed_at_its_second_start), "failed", "module load cuda"),
    "a note of an earlier start": (slurm(died_at_its_second_start), "failed", "execve(): /opt/venv"),
    "a note of the last start": (slurm(failed_at_its_second_start), "failed", "7 is not 8, requeued 1 time"),
    "a crash": (
        slurm(printed("terminate called after throwing an instance of 'c10::Error'\n", "134:0")),
        "failed",
        "killed by SIGABRT: terminate called",
    ),
    "its memory, as a kernel says it": (
        slurm(printed("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.\n", "137:0")),
        "failed",
        "resources.mem_gb",
    ),
    "a full disk, in its log": (
        slurm(printed(f"OSError: [Errno 28] No space left on device: '/scratch/N/x'\nKeyError: 'y'\n{CLOSING}")),
        "failed",
        "disk full: /scratch/N/x, log:",
    ),
    "a full disk, as the shell says it": (
        slurm(printed("/l/0.sh: line 9: /scratch/log.txt: No space left on device\n", name="1_0.log")),
        "failed",
        "disk full: /scratch/log.txt, log:",
    ),
    "a full disk, in its note": (
        slurm(lambda w, j: (w.scheduler.fail(j), w.note("N", "error", j, error=(
            "runs/N/checkpoints/x: the disk is full (0.00 GB free) while writing: free some space, then ...")))),
        "failed",
        "disk full: runs/N/checkpoints/x",
    ),
    "a full disk, as a database says it": (
        slurm(printed("sqlite3.OperationalError: database or disk is full\n")), "failed", "disk full: /",
    ),
    "a crash that says nothing": (
        slurm(printed("N: EMA 0.9999, ramp-up 0.1\n", "139:0")), "failed", "killed by SIGSEGV, log:",
    ),
    "SLURM could not launch it": (
        slurm(lambda w, j: w.scheduler.set(j, reason="launch failed requeued held"), 0),
        "waiting",
        "does its node know its user",
    ),
    "a full disk, no room for a note": (ended("FAILED", "28:0"), "failed", "/runs/N, log:"),
    "not started": (
        ended("FAILED", "0:53", nodes="node2", reason="JobLaunchFailure"),
        "failed",
        "SLURM could not start it on node2: is ",
    ),
    "follows what failed": (slurm(never_satisfied, 0), "waiting", "(afterok:12) did not end as was asked; cancel it"),
    "held by an administrator": (
        slurm(lambda w, j: w.scheduler.set(j, reason="JobHeldAdmin"), 0), "waiting", "who alone can release it",
    ),
    "a requeue that SLURM refused": (slurm(requeue_refused), "failed", "7 is not 8, log:"),
    "no words": (ended("FAILED", "2:0"), "failed", "exit code 2:0"),
    "out of memory": (ended("OUT_OF_MEMORY", "0:125"), "failed", "resources.mem_gb"),
    "time limit": (ended("TIMEOUT", limit_minutes=60.0), "failed", "its time limit of 60 min"),
    "node": (ended("NODE_FAIL", nodes="node7"), "failed", "its node failed (node7)"),
    "preempted for good": (ended("PREEMPTED"), "failed", "preempted"),
    "a state of the future": (ended("MELTED"), "failed", "SLURM says MELTED"),
    "did nothing": (ended("COMPLETED"), "failed", "ended without an error, but step 100 is not evaluated"),
    "forgotten": (slurm(forgotten), "failed", "killed by SIGKILL"),
    "no accounting": (slurm(forgotten_without_accounting), "failed", "SLURM has forgotten it"),
    "never started, no accounting": (slurm(forgotten_without_accounting, 0), "cancelled", "before it started"),
    "stopped": (slurm(stopped), "stopped", "by SIGTERM, at step 50/100"),
    "cancelled": (ended("CANCELLED", cancelled_by="root"), "cancelled", "by root"),
    "cancelled by nobody": (ended("CANCELLED"), "cancelled", "at step 50/100"),
    "cancelled, and saved": (slurm(cancelled_after_term), "cancelled", "by root"),
    "SLURM is down": (slurm(down), "unknown", "submitted as job 1_0, at step 50/100"),
    "SLURM is down, it beats": (slurm(down_but_beating), "running", "step 50/100"),
    "SLURM is down, it failed": (slurm(down_after_an_error), "failed", "7 is not 8"),
    "nothing": (lambda w: None, "not submitted", ""),
    "an empty folder": (lambda w: w.run(), "not submitted", ""),
    "launch cut off": (lambda w: (w.run(), w.launch("N", submit=False)), "not submitted", "cut off"),
    "checkpoint kept": (lambda w: w.run(step=150, kept=[100]), "trained", "not evaluated"),
    "checkpoint lost": (lambda w: w.run(step=150, kept=[150]), "lost", "its checkpoint is gone"),
    "local, running": (local(), "running", "step 50/100, 640 images/s"),
    "local, killed": (lambda w: local(pid=dead_pid())(w), "failed", "ended without a word"),
    "local, stopped": (local_segment(stopped="SIGTERM"), "stopped", "by SIGTERM, at step 50/100"),
    "local, stopped by an earlier version": (
        local_segment(error="Stopped: stopped by SIGTERM"), "stopped", "by SIGTERM, at step 50/100"
    ),
    "local, interrupted in an earlier version": (local_segment(error="KeyboardInterrupt: "), "stopped", "by SIGINT"),
    "local, failed": (local_segment(error="UserError: not finite"), "failed", "UserError: not finite"),
    "local, ended": (local_segment(completed=True), "not submitted", "at step 50/100"),
    "local, note of an error": (local_note("error", error="KeyError: 'x'"), "failed", "KeyError: 'x'"),
    "local, note of a signal": (local_note("stopped", signal="SIGINT"), "stopped", "by SIGINT"),
    "continued locally": (continued_locally, "stopped", "by SIGINT"),
    "another machine, beating": (
        lambda w: (w.run(step=50), w.claim("N", beat=30)),
        "running",
        "step 50/100",
    ),
    "another machine, silent": (lambda w: (w.run(step=50), w.claim("N", beat=999)), "unknown", "held by process"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATE_CASES)
def test_states(world: World, name: str) -> None:
    make, state, text = STATE_CASES[name]
    world.study()
    make(world)
    row, later = world.rows()
    assert row.state == state, what(row)
    assert text in what(row)
    assert row.state in STATES
    assert later.state in (state, "not submitted"), "both budgets are in the same boat, but for a checkpoint"
    assert row.active == (state in ("waiting", "running"))
    if state in ("failed", "running") and row.job and "_" in row.job:
        assert "log: " in what(row), "always"
    assert bool(row.retry) == (state == "failed" and not name.startswith("local"))


def test_done_with_fid_and_nothing_is_asked_of_slurm(world: World) -> None:
    world.run(step=200, evaluated=[100, 200])
    world.study()
    world.launch("N")
    world.scheduler.down = "SLURM does not answer"
    overview = world.look()
    assert [what(row) for row in overview.rows] == ["FID 12.35", "FID 12.35"]
    assert overview.problem == ""
    assert "analysis.plots --study s" in next_steps(overview, ["s"])[-1]


def test_eta_counts_training_and_what_is_evaluated_on_the_way(world: World) -> None:
    world.run(step=150, evaluated=[100], kept=[100])
    world.study(asked={"N": (100, 200, 400)})
    (job,) = world.launch("N", budgets=(100, 200, 400))
    running(world, job)
    world.progress("N", 160)
    done, near, far = world.rows()
    assert (done.state, near.step, far.step) == ("done", 160, 160)
    assert near.eta == pytest.approx((200 - 160) * BATCH / SPEED + EVALUATION_SECONDS)
    assert far.eta == pytest.approx((400 - 160) * BATCH / SPEED + 2 * EVALUATION_SECONDS)
    assert near.age == pytest.approx(5.0)


def test_progress_of_an_earlier_start_is_no_news(world: World) -> None:
    world.run(step=50)
    world.study()
    (job,) = world.launch("N")
    running(world, job)
    world.progress("N", 99, samples=5, age=60)
    assert [(row.state, row.step) for row in world.rows()] == [("running", 50), ("running", 50)]


def test_evaluation_inline_then_the_next_budget(world: World) -> None:
    world.run(step=100, kept=[100])
    world.study()
    (job,) = world.launch("N")
    running(world, job)
    world.progress("N", 100, samples=300)
    row, later = world.rows()
    assert (row.state, row.samples, what(row, log=False)) == ("evaluating", (300, 1000), "300/1000 samples")
    assert (later.state, later.step) == ("running", 100)
    assert what(later).startswith("evaluating step 100: 300/1000 samples, step 100/200")
    world.progress("N", 100, samples=1000)
    assert what(world.rows()[0], log=False) == "held-out loss, features and distances"


def test_what_a_job_says_of_itself_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / PROGRESS_FILE
    assert read_progress(path) is None
    job = FileProgress(tmp_path)
    assert job.state.text == "starting"
    job.training(0, 400, None, None)
    job.training(400, 400, 0.5, 600.0)
    written = read_progress(path)
    assert written == replace(job.state, time=path.stat().st_mtime)
    assert (written.step, written.last, written.text) == (400, 400, "loss 0.5000, 600 images/s")
    job.sampling(400, 300, 1000)
    job.evaluated(200, {"fid": 12.345, "heldout_loss": float("nan")}, {"fid": 2.0}, "digits-cnn@12345678")
    written = read_progress(path)
    assert written
    assert (written.evaluating, written.step) == (True, 400)
    assert written.text == "evaluating step 400: 300/1000 samples"
    assert written.evaluated_text == "step 200: FID 12.35 (real images 2.00), held-out loss nan"


@pytest.mark.parametrize(
    ("doing", "text"), [("loss 0.5, 640 images/s", "step 60/100"), ("evaluating step 60: 5/9 samples", "step 60/100")]
)
def test_progress_of_an_earlier_version_says_the_step(world: World, doing: str, text: str) -> None:
    world.run(step=50)
    world.study()
    (job,) = world.launch("N")
    running(world, job)
    old = {"doing": doing, "step": 60, "last": 200, "evaluated": "step 40: FID 12.35"}
    (world.runs / "N" / PROGRESS_FILE).write_text(json.dumps(old))
    assert text in what(world.rows()[0])
    progress = read_progress(world.runs / "N" / PROGRESS_FILE)
    assert progress
    assert (progress.text, progress.evaluated_text) == ("training", "")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"step": "x"}', '{"step": 5, "samples": null}'])
def test_a_damaged_progress_file_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / PROGRESS_FILE).write_text(content)
    assert read_progress(tmp_path / PROGRESS_FILE) is None


def test_a_silent_process_is_pointed_out(world: World) -> None:
    world.run(step=50, age=3000)
    world.study()
    (job,) = world.launch("N")
    world.scheduler.start(job)
    world.claim("N", job, age=4000, beat=1800)
    assert "no sign of life for 30 min" in what(world.rows()[0])


def test_life_of_a_run_that_is_evaluated_by_a_job_of_its_own(world: World) -> None:
    world.run()
    world.study()
    (train,) = world.launch("N", work="train")
    (evaluator,) = world.launch("N", work=EVALUATE, after=train)
    assert world.states() == ["waiting", "waiting"]
    world.scheduler.start(train)
    world.run(step=120, kept=[100])
    world.claim("N", train)
    first, second = world.rows()
    assert (first.state, first.text, first.active) == ("trained", f"job {evaluator} will evaluate it", True)
    assert second.state == "running"
    world.run(step=200, kept=[100, 200])
    world.scheduler.end(train)
    assert [what(row) for row in world.rows()] == ["its evaluation waits: other jobs come first"] * 2
    world.scheduler.start(evaluator)
    world.progress("N", 100, samples=10, file=EVALUATION_PROGRESS_FILE)
    assert [(row.state, row.job) for row in world.rows()] == [("evaluating", evaluator), ("trained", evaluator)]
    world.evaluate("N", 100)
    world.scheduler.fail(evaluator, "137:0")
    first, second = world.rows()
    assert (first.state, second.state, second.active) == ("done", "failed", False)
    assert [task.work for task in second.retry] == [EVALUATE], "training is not done again"


def test_a_training_that_failed_late_loses_nothing_that_its_evaluation_can_do(world: World) -> None:
    world.run(step=150, kept=[100])
    world.study()
    (train,) = world.launch("N", work="train")
    (evaluator,) = world.launch("N", work=EVALUATE, after=train)
    world.scheduler.fail(train, "137:0")
    world.scheduler.start(evaluator)
    first, second = world.rows()
    assert (first.state, second.state) == ("trained", "failed")
    assert [task.work for task in second.retry] == ["train", EVALUATE]
    done = world.retry()
    new, again = (item.id for item in world.scheduler.submissions[2:])
    assert world.scheduler.submissions[3].dependency == f"afterany:{evaluator}:{new}_0"
    assert (world.ids(number=1), world.ids(number=2)) == ([train, f"{new}_0"], [evaluator, f"{again}_0"])
    assert done.lines[1] == f"submitted {again}_0: evaluates N, after {evaluator} and {new}_0"
    assert world.states() == ["trained", "waiting"]


def test_several_protocols_are_rows_of_their_own_and_jobs_count_for_theirs(world: World) -> None:
    world.run(step=200, evaluated=[100, 200], kept=[100, 200])
    world.study(protocols=(PROTOCOL, OTHER))
    (job,) = world.launch("N", steps=10)
    world.scheduler.fail(job)
    found = {(row.protocol, row.budget): row.state for row in world.rows()}
    assert found == {(PROTOCOL, 100): "done", (PROTOCOL, 200): "done", (OTHER, 100): "failed", (OTHER, 200): "failed"}
    assert all(OTHER in line or PROTOCOL in line for line in plain_lines(world.rows()))


def test_a_budget_is_shown_in_flops_too_where_the_run_says_what_a_step_costs(world: World) -> None:
    world.run(step=200, evaluated=[100], kept=[100, 200])
    world.study()
    assert all(row.flops is None for row in world.rows())
    path = world.runs / "N" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cost": {"train_flops_per_step": 1.5e9}}))
    found = {row.budget: row.flops for row in world.rows()}
    assert found == {100: 1.5e11, 200: 3e11}
    assert [line.split()[1:4] for line in plain_lines(world.rows())] == [
        ["100", "150", "GFLOPs"],
        ["200", "300", "GFLOPs"],
    ]
    assert [as_json(row)["flops"] for row in world.rows()] == [1.5e11, 3e11]


def test_a_job_for_another_protocol_does_not_speak_for_this_one(world: World) -> None:
    world.run(step=200, kept=[100, 200])
    world.study(protocols=(PROTOCOL, OTHER))
    (job,) = world.launch("N", steps=10)
    world.scheduler.fail(job)
    assert {row.protocol: row.state for row in world.rows()} == {PROTOCOL: "trained", OTHER: "failed"}


def test_a_protocol_that_nobody_asked_for_is_another_versions_name(world: World) -> None:
    world.run(step=50)
    world.study(protocols=("ddim25-1000-of-another-version",))
    world.launch("N")
    assert world.states() == ["waiting", "waiting"]


def test_the_last_of_several_jobs_counts_and_the_one_that_runs(world: World) -> None:
    world.run(step=50)
    world.study()
    (old,) = world.launch("N")
    world.scheduler.fail(old)
    (new,) = world.launch("N")
    assert world.states() == ["waiting", "waiting"]
    world.scheduler.end(new, "CANCELLED")
    assert world.states() == ["cancelled", "cancelled"]
    world.scheduler.start(old)  # an administrator requeued it
    world.claim("N", old)
    assert [row.job for row in world.rows()] == [old, old]


def test_a_launcher_that_died_before_it_noted_the_ids(world: World) -> None:
    world.run()
    world.study()
    (job,) = world.launch("N", noted=False)
    assert [(row.state, row.job) for row in world.rows()] == [("waiting", job)] * 2


def test_another_clusters_job_of_the_same_id_is_not_ours(world: World) -> None:
    world.run(step=50)
    world.study()
    (job,) = world.launch("N")
    world.slurm_log(job)
    world.scheduler.set(job, script="/somewhere/else/0.sh", state="RUNNING")
    assert world.states() == ["failed", "failed"]
    world.scheduler.set(job, script=f"/mounted/elsewhere{world.runs}/launches/20260101-000000-abc/0.sh")
    assert world.states() == ["running", "running"], "the same launch by another path is ours"


def test_accounting_that_is_late_or_shows_what_the_queue_hides(world: World) -> None:
    world.run(step=50)
    world.study()
    (job,) = world.launch("N")
    world.scheduler.start(job)
    world.scheduler.forget(job)
    row, _ = world.rows()
    assert (row.state, bool(row.retry)) == ("unknown", False)
    assert "accounting says RUNNING" in row.text
    world.claim("N", job, beat=10)
    assert world.states() == ["running", "running"], "a colleague's job that beats"


def test_accounting_is_asked_once_about_what_is_over(world: World) -> None:
    world.run("N")
    world.run("M", step=200, evaluated=[100, 200])
    world.study(asked={"N": (100, 200), "M": (100, 200)})
    bad, good = world.launch("N", "M")
    world.scheduler.fail(bad)
    world.scheduler.end(good)
    world.rows()
    world.rows()
    assert world.scheduler.asked == [[bad]]


def test_two_clusters_one_of_them_down(world: World, tmp_path: Path) -> None:
    world.run("N")
    world.run("M")
    world.study(asked={"N": (100,), "M": (100,)})
    other = FakeScheduler()
    (mine,) = world.launch("N")
    world.scheduler.fail(mine)
    world.scheduler, first = other, world.scheduler
    (theirs,) = world.launch("M", conf="/etc/other.conf")
    assert mine == theirs, "ids of two clusters may be the same"
    world.looker = Looker(world.runs, lambda conf: other if conf else first)
    assert world.states() == ["failed", "waiting"]
    other.down = "SLURM does not answer"
    assert world.states() == ["failed", "unknown"]
    done = world.retry()
    assert len(first.submissions) == 2
    assert len(other.submissions) == 1
    assert done.problem == "nothing else is submitted: SLURM does not answer"


def test_a_damaged_evaluation_is_pointed_out_and_not_run_again(world: World) -> None:
    folder = world.run(step=200, evaluated=[100, 200])
    world.study()
    (folder / "evaluations" / f"step-{100:08d}-{PROTOCOL}.json").write_text('{"step": 100')
    row, other = world.rows()
    assert (row.state, other.state) == ("damaged", "done")
    assert "remove it" in row.text
    assert not row.retry


def test_folders_of_no_study_are_shown_with_what_is_evaluated(world: World) -> None:
    world.run("N", step=200, evaluated=[200])
    world.run("M", step=200, evaluated=[100])
    world.study(asked={"M": (100,)})
    assert [(row.run, row.budget) for row in world.rows(None)] == [("M", 100), ("N", 200)]
    with pytest.raises(UserError, match=r"no study 't' in .*; there: s"):
        world.rows("t")


def test_rows_as_json_have_no_objects(world: World) -> None:
    slurm(running)(world)
    world.study()
    found = json.loads(json.dumps([as_json(row) for row in world.rows()]))
    assert found[0]["state"] == "running"
    assert found[0]["eta_s"] == pytest.approx(5.0)
    assert found[0]["requeued"] == 0


def test_the_tail_of_records_bears_with_damage(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_tail(path).time is None
    lines = ['{"step": 0, "time": 1.0, "segment": "start"}']
    lines += [f'{{"step": {at}, "time": {at}.5, "images_per_s": 100.0, "pad": "{"x" * 300}"}}' for at in range(1, 400)]
    path.write_text("\n".join([*lines, "[1]", "{broken", '{"step": 400, "time": 400.5, "images_per_s": 300']))
    tail = read_tail(path)
    assert (tail.step, tail.time, tail.images_per_s) == (399, 399.5, 100.0)


def test_fake_scheduler_takes_arrays_and_dependencies_as_sbatch_does(tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("#!/bin/bash\n#SBATCH --array=0-2\n")
    fake = FakeScheduler(max_array_size=8)
    fake.test(script.read_text())
    assert not fake.queue()
    first = fake.submit(script)
    second = fake.submit(script, array="1,3-4%2", dependency=f"afterany:{first}")
    assert list(fake.queue()) == ["1_0", "1_1", "1_2", f"{second}_1", f"{second}_3", f"{second}_4"]
    assert fake.queue()[f"{second}_1"].reason == "Dependency"
    for job in ("1_0", "1_1", "1_2"):
        fake.end(job)
    assert fake.queue()[f"{second}_1"].reason == "Priority"
    with pytest.raises(Refused, match="Invalid job array"):
        fake.submit(script, array="0-8")


def test_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "mlflow", "pandas", "hydra", "numpy")
    code = f"import sys, fcdm.status; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asked_of_a_study_is_each_budget_once(world: World) -> None:
    world.study("a", {"N": (200, 100)})
    world.study("b", {"N": (200, 400)})
    world.run()
    assert what_is_asked(world.runs).runs == {"N": [(100, PROTOCOL), (200, PROTOCOL), (400, PROTOCOL)]}


@pytest.mark.parametrize(
    ("state", "exit_code", "text"),
    [
        ("FAILED", "1:0", "exit code 1:0; the disk is full now"),
        ("FAILED", "28:0", "disk full: "),
        ("FAILED", "139:0", "killed by SIGSEGV"),
        ("OUT_OF_MEMORY", "0:125", "out of memory: "),
        ("NODE_FAIL", "1:0", "its node failed"),
        ("TIMEOUT", "0:0", "its time limit"),
    ],
)
def test_a_disk_that_is_full_now_is_no_cause(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str, exit_code: str, text: str
) -> None:
    monkeypatch.setattr(run_files, "_is_full", lambda folder: True)
    world.run(step=50)
    world.study()
    (job,) = world.launch("N")
    world.slurm_log(job)
    world.scheduler.end(job, state, exit_code)
    said = world.rows()[0].text
    assert said.startswith(text)
    assert ("is full now" in said) == ("is full now" in text)


def test_a_kernel_distance_is_shown_by_its_name_where_there_is_no_other(world: World) -> None:
    world.study()
    world.run(step=100)
    content = {"step": 100, "time": world.now, "protocol_id": PROTOCOL, "protocol": {"features": "dinov2@12345678"}}
    path = world.runs / "N" / "evaluations" / f"step-{100:08d}-{PROTOCOL}.json"
    path.write_text(json.dumps({**content, "metrics": {"kid": 0.012345, "kid_se": 0.001}}))
    (row,) = (row for row in world.look().rows if row.budget == 100)
    assert (row.state, what(row), row.fid) == ("done", "KDD 0.0123", None)
    assert as_json(row)["distance"] == "KDD 0.0123"
    path.write_text(json.dumps({**content, "metrics": {"heldout_loss": 0.5}}))
    world.looker = Looker(world.runs, lambda conf: world.scheduler)  # what stands is read once
    (row,) = (row for row in world.look().rows if row.budget == 100)
    assert row.state == "damaged"


def test_the_spaces_of_a_run_are_told_apart(world: World) -> None:
    """Also of what is not evaluated yet; a run that is evaluated in one space has no need of it."""
    world.study()
    world.run(step=100, evaluated=[100])
    study = world.runs / "studies" / "s.json"
    content = json.loads(study.read_text())
    (request,) = content["requests"]
    content["requests"].append({**request, "protocol_id": OTHER})
    content["spaces"] = {PROTOCOL: "digits-cnn@12345678", OTHER: "pixels-8x8"}
    study.write_text(json.dumps(content))
    rows = world.look().rows
    assert {(row.protocol, row.space) for row in rows} == {(PROTOCOL, "digits-cnn"), (OTHER, "pixels")}
    assert any(f"{OTHER} in pixels" in line for line in plain_lines(rows))
    content["spaces"] = dict.fromkeys((PROTOCOL, OTHER), "digits-cnn@12345678")
    study.write_text(json.dumps(content))
    assert {row.space for row in world.look().rows} == {""}
