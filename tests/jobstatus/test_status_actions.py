"""Retry, cancel and watch of `fcdm.status`, against a SLURM in memory."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fcdm.jobs.job import EVALUATE
from fcdm.jobstatus.actions import Done, cancel
from fcdm.jobstatus.status_table import commands, next_steps, screen, summary
from fcdm.jobstatus.watch import watch
from tests.support.environ import environment_of
from tests.support.fake_scheduler import FakeScheduler
from tests.support.status_world import PROTOCOL, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ------------------------------------------------------------------------------------------------- retry, cancel


def test_retry_takes_what_failed_and_nothing_else(world: World) -> None:
    names = ["failed", "killed", "cancelled", "stopped", "done", "queued", "running"]
    for name in names:
        world.run(name, step=50)
    world.study(asked=dict.fromkeys(names, (100, 200)))
    jobs = dict(zip(names, world.launch(*names, parallel=1), strict=True))
    world.scheduler.fail(jobs["failed"])
    world.scheduler.end(jobs["killed"], "NODE_FAIL")
    world.scheduler.cancel([jobs["cancelled"]])
    world.scheduler.fail(jobs["stopped"], "143:0")
    world.note("stopped", "stopped", jobs["stopped"], signal="SIGTERM")
    for budget in (100, 200):
        world.evaluate("done", budget)
    world.scheduler.fail(jobs["done"])  # after its last evaluation: it has what was asked of it
    world.scheduler.start(jobs["running"])
    done = world.retry()
    (again,) = world.scheduler.submissions[1:]
    assert (again.array, again.dependency) == ("0,1%1", "")
    assert done.lines == ["submitted 9_0: trains and evaluates failed", "submitted 9_1: trains and evaluates killed"]
    assert world.ids("failed") == [jobs["failed"], "9_0"]
    assert world.ids("done") == [jobs["done"]]
    states = {row.run: row.state for row in world.rows()}
    assert (states["failed"], states["killed"], states["cancelled"]) == ("waiting", "waiting", "cancelled")
    assert world.retry().lines == [], "it is in the queue now"
    assert summary(world.rows()) == "2 done, 2 running, 6 waiting, 2 cancelled, 2 stopped"


def test_a_retry_without_the_launch_s_credentials_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    world.run("failed", step=50)
    world.study(asked={"failed": (100,)})
    (job,) = world.launch("failed")
    (launch,) = world.runs.glob("launches/*/launch.json")
    content = json.loads(launch.read_text())
    launch.write_text(json.dumps({**content, "credentials": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]}))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "kim")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    world.scheduler.fail(job)
    warning, submitted = world.retry().lines
    assert warning.startswith("this shell keeps MLFLOW_TRACKING_PASSWORD from the jobs, which cannot forward to MLflow")
    assert submitted.startswith("submitted ")


def test_two_retries_at_once_submit_each_task_once(world: World) -> None:
    names = [f"run{number}" for number in range(8)]
    for name in names:
        world.run(name)
    world.study(asked=dict.fromkeys(names, (100,)))
    for job in world.launch(*names):
        world.scheduler.fail(job)
    lines: list[str] = []
    threads = [threading.Thread(target=lambda: lines.extend(world.retry().lines)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines) == 8
    assert len(world.scheduler.submissions) == 2


def test_two_failed_jobs_of_one_run_go_one_after_the_other(world: World) -> None:
    world.run(step=50)
    world.study(asked={"N": (100, 400)})
    for budgets in ((100,), (400,)):
        (job,) = world.launch("N", budgets=budgets)
        world.scheduler.fail(job)
    world.retry()
    first, second = world.scheduler.submissions[2:]
    assert (first.dependency, second.dependency) == ("", f"afterany:{first.id}_0")


def test_a_refused_retry_says_what_was_submitted(world: World) -> None:
    for name in ("N", "M"):
        world.run(name)
    world.study(asked={"N": (100,), "M": (100,)})
    for name in ("N", "M"):
        (job,) = world.launch(name)
        world.scheduler.fail(job)
    world.scheduler.accept = 3
    done = world.retry()
    assert len(done.lines) == 1
    assert "not available" in done.problem
    world.scheduler.accept = None
    assert len(world.retry().lines) == 1, "only what is left"


def test_a_failed_local_run_is_its_commands_business(world: World) -> None:
    world.run(step=50)
    world.claim("N", here=True, released=True)
    world.segment_end("N", error="UserError: not finite")
    world.study()
    done = world.retry()
    assert [row.run for row in done.elsewhere] == ["N", "N"]
    assert not done.lines
    assert "go on with the rest: python -m fcdm.train -m study=s" in next_steps(world.look(), ["s"])


def test_the_rest_is_the_business_of_the_command_that_asked_for_it(world: World) -> None:
    """Of several commands of a study the last one that asked for the run, and not the last one of all."""
    for name in ("N", "M"):
        world.run(name, step=50)
    world.study(asked={"N": (100,), "M": (100,)})
    path = world.runs / "studies" / "s.json"
    train = "python -m fcdm.train -m"
    first, last = f"{train} seed=0,1 hydra.launcher.qos=x", f"{train} seed=2"
    asked_by = {f"{train} seed=0,1": {"N": {PROTOCOL: [100]}}, last: {"M": {PROTOCOL: [100]}}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "commands": [first, last], "asked_by": asked_by}))
    overview = world.look()
    assert commands(overview, [row for row in overview.rows if row.run == "N"]) == [first]
    assert commands(overview, [row for row in overview.rows if row.run == "M"]) == [last]


def test_cancel_ends_exactly_what_waits_or_runs(world: World) -> None:
    for name in ("N", "M", "X"):
        world.run(name)
    world.study(asked={"N": (100, 200), "M": (100,)})
    running_job, failed, others = world.launch("N", "M", "X")
    (evaluator,) = world.launch("N", work=EVALUATE, after=running_job)
    world.scheduler.start(running_job)
    world.scheduler.fail(failed)
    lines = cancel(world.looker, world.rows()).lines
    assert lines == [f"cancelled job {running_job} of N", f"cancelled job {evaluator} of N"]
    assert world.scheduler.active() == [others], "not of this study"
    assert world.states() == ["cancelled", "cancelled", "failed"]
    assert cancel(world.looker, world.rows()) == Done()
    assert not any(line.startswith("submitted") and " N" in line for line in world.retry().lines)


def test_cancel_stops_a_local_process_once_and_names_its_launcher(world: World) -> None:
    world.run(step=50)
    world.study()
    process = subprocess.Popen(["sleep", "60"], env={"FCDM_PARENT": "4242"})
    try:
        assert environment_of(process.pid) == {"FCDM_PARENT": "4242"}
        from fcdm.runs.processes import start_time

        path = world.claim("N", here=True, pid=process.pid)
        text = path.read_text()
        path.write_text(text.replace(f'"start": {start_time(os.getpid())}', f'"start": {start_time(process.pid)}'))
        lines = cancel(world.looker, world.rows()).lines
        assert lines[0] == f"pid {process.pid} saves and stops (N)"
        assert "pid 4242" in lines[1]
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert cancel(world.looker, world.rows()) == Done()


def test_cancel_leaves_a_process_of_another_machine_and_says_so(world: World) -> None:
    world.run(step=50)
    world.study()
    world.claim("N", beat=5)
    done = cancel(world.looker, world.rows())
    assert not done.lines
    assert "stop it there" in done.problem


# ------------------------------------------------------------------------------------------------- watch, texts


def told(world: World, wanted: str | list[str] = "s") -> tuple[int, list[str]]:
    out = io.StringIO()
    left = watch(world.runs, wanted, world.scheduler, 0.01, Console(file=out, width=80))
    return left, out.getvalue().splitlines()


class Story(FakeScheduler):
    """At each look at the queue the next thing happens."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps = list(steps)

    def queue(self) -> dict[str, object]:  # type: ignore[override]
        if self.steps:
            self.steps.pop(0)()
        return super().queue()  # type: ignore[return-value]


def test_watch_tells_each_change_in_a_line_and_ends_with_the_last_job(world: World) -> None:
    for name in ("N", "M"):
        world.run(name)
    world.study(asked={"N": (100,), "M": (100,)})

    def begin() -> None:
        world.scheduler.start("1_0")
        world.claim("N", "1_0")

    def answer_not() -> None:
        world.scheduler.down = "SLURM does not answer"

    def end() -> None:
        world.scheduler.down = ""
        world.evaluate("N", 100)
        world.scheduler.end("1_0")
        world.scheduler.fail("1_1")

    world.scheduler = Story(lambda: None, lambda: None, begin, lambda: None, answer_not, end)
    world.launch("N", "M")
    left, lines = told(world)
    assert left == 1
    assert [line.split()[2] for line in lines if line.startswith("N ")] == ["waiting", "running", "done"]
    assert "only what the files say: SLURM does not answer" in lines
    assert lines[-1] == "1 done, 1 failed"
    assert len(lines) == 9, lines


def test_watch_of_some_runs_by_name(world: World) -> None:
    for name in ("N", "M"):
        world.run(name, step=200, evaluated=[100, 200])
    world.study(asked={"N": (100, 200), "M": (100, 200)})
    left, lines = told(world, ["M"])
    assert left == 0
    assert [line.split()[0] for line in lines[:-1]] == ["M", "M"]


def test_watch_draws_in_a_terminal(world: World) -> None:
    world.run(step=200, evaluated=[100])
    world.study()
    out = io.StringIO()
    assert watch(world.runs, "s", world.scheduler, 0.01, Console(file=out, force_terminal=True, width=100)) == 1
    assert "FID 12.35" in out.getvalue()
    assert "1 done, 1 lost" in out.getvalue()


def test_a_screen_shows_first_what_needs_a_look(world: World) -> None:
    names = [f"run{number:03d}" for number in range(60)]
    for name in names:
        world.run(name, step=100, evaluated=[100])
    world.run("zz")
    world.study(asked=dict.fromkeys([*names, "zz"], (100,)))
    (job,) = world.launch("zz")
    world.scheduler.fail(job)
    out = io.StringIO()
    console = Console(file=out, width=100, height=20)
    console.print(screen(world.look(), world.runs, console))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines[0] == "61 runs: 60 done, 1 failed"
    assert next(line for line in lines if line.startswith(("zz", "run0"))).startswith("zz")
    assert any(line.startswith("... and 5") for line in lines)
    assert len(lines) <= 20
