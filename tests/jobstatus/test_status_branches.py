"""`fcdm.status` of cooldown branches: what is trained and evaluated by nobody, and what waits for what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fcdm import status
from fcdm.config.schema import NEVER, Config
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study
from fcdm.jobstatus import replace as replacing
from fcdm.jobstatus.actions import retry_failed
from fcdm.jobstatus.collect import Looker, what_is_asked
from fcdm.jobstatus.rows import StatusRow
from fcdm.runs.branches import branches_of
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import list_studies
from fcdm.slurm import submit as submitting
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.submit import submit
from tests.support.commands import TINY, Command, composed
from tests.support.fake_scheduler import FakeScheduler
from tests.support.status_world import PROTOCOL, World

COMMAND = ["python", "-m", "fcdm.train", "-m", "model=N", "cooldown=0.2", "study=s"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Run `N`, of which study `s` asks that it be trained to 100 and to 200."""
    world = World(tmp_path)
    world.run(step=120, kept=[110])
    world.study(protocols=[TRAINED_ONLY])
    return world


def shown(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert status.main([*words, "--runs", str(world.runs)]) == 0
    return capsys.readouterr().out.splitlines()


# ------------------------------------------------------------------------------------------------- trained alone


def test_what_is_trained_is_done(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint beyond the step will do, and none before it."""
    (done, left) = world.rows()
    assert (done.budget, done.state, done.text, done.fid, done.retry) == (100, "done", "trained", None, ())
    assert (left.budget, left.state, left.text) == (200, "not submitted", "")
    assert "1 done, 1 not submitted" in shown(world, capsys)[0]
    (world.runs / "N" / "checkpoints" / "step-00000200").mkdir()
    lines = shown(world, capsys, "s")
    assert lines[0] == "2 done"
    assert [line.split()[-3:] for line in lines[2:4]] == [["done", "-", "trained"]] * 2
    assert not any("go on with the rest" in line or "not evaluated" in line for line in lines)
    assert status.main(["--json", "--runs", str(world.runs)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["state"], row["text"], row["protocol"], row["fid"]) for row in rows] == [
        ("done", "trained", TRAINED_ONLY, None)
    ] * 2


def test_training_past_it_without_a_checkpoint_is_no_loss(world: World) -> None:
    """The same command trains on: nothing is to be evaluated there."""
    (world.runs / "N" / "checkpoints" / "step-00000110").rmdir()
    assert world.states() == ["not submitted", "not submitted"]


def test_a_run_that_no_study_asks_for_has_no_such_row(world: World) -> None:
    world.run("other", step=200, kept=[200], evaluated=[200])
    assert [(row.run, row.protocol) for row in world.rows(None) if row.run == "other"] == [("other", PROTOCOL)]


def test_beside_evaluations_the_space_is_not_told(world: World) -> None:
    """Of a run in one space, what is trained alone makes no second one."""
    world.study("t", protocols=[PROTOCOL])
    path = world.runs / "studies" / "t.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "spaces": {PROTOCOL: "digits-cnn@1234abcd"}}))
    assert {row.space for row in world.rows(None)} == {""}


def branch_job(world: World, budgets: list[int], never: bool = True) -> str:
    """A SLURM job whose only part trains to these budgets, and evaluates nothing there with never=True."""
    (job,) = world.launch("N", budgets=budgets)
    path = world.runs / "N" / "jobs" / "1.json"
    content = json.loads(path.read_text())
    content["parts"][0]["evaluation"]["where"] = NEVER if never else "inline"
    path.write_text(json.dumps(content))
    return job


def test_the_job_that_trains_it_is_its_job(world: World) -> None:
    job = branch_job(world, [200])
    done, left = world.rows()
    assert (left.state, left.job, left.text) == ("waiting", job, "other jobs come first")
    assert done.state == "done"
    world.scheduler.start(job)
    world.claim("N", job)
    assert world.states() == ["done", "running"]
    world.scheduler.fail(job)
    world.note("N", "error", job, error="ValueError: 7 is not 8")
    left = world.rows()[1]
    assert (left.state, left.text, [task.run.name for task in left.retry]) == (
        "failed",
        "ValueError: 7 is not 8",
        ["N"],
    )
    world.note("N", "error", None)
    world.scheduler.end(job)
    assert world.rows()[1].text == "ended without an error, but step 200 is not trained"


def test_a_job_that_trains_further_and_evaluates_will_have_trained_it(world: World) -> None:
    job = branch_job(world, [400], never=False)
    assert [(row.state, row.job) for row in world.rows()] == [("done", None), ("waiting", job)]


def test_a_job_that_only_trains_evaluates_nothing(world: World) -> None:
    branch_job(world, [200])
    world.study("t", {"N": [200]}, protocols=[PROTOCOL])
    (row,) = world.rows("t")
    assert (row.state, row.job) == ("not submitted", None)


def test_it_is_withdrawn_and_cancelled_as_others_are(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["s", "--withdraw", "--yes", "--runs", str(world.runs)]) == 0
    assert "1 request, of N" in capsys.readouterr().out
    (study,) = list_studies(world.runs)
    assert study.asked("N") == {TRAINED_ONLY: (100,)}
    assert world.states() == ["done"]


def test_cancelling_says_what_ends_with_it(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what its checkpoint has done already."""
    world.study("t", {"N": [400]}, protocols=[PROTOCOL])
    job = branch_job(world, [100, 200, 400])
    monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: world.scheduler))
    assert status.main(["steps=200", "--cancel", "--yes", "--runs", str(world.runs)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [f"ending job {job} of N ends its steps=400 too", f"cancelled job {job} of N"]


# ------------------------------------------------------------------------------------------------- on SLURM


class Bench:
    """A trajectory with branches at 8 and 16 that end at 10 and 20, submitted to a SLURM in memory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = folder / "runs"
        self.scheduler = FakeScheduler()
        self.code = "0123456789abcdef"
        monkeypatch.setattr(submitting, "take_snapshot", lambda runs_dir, models: self.runs / "code" / self.code)
        monkeypatch.setattr(replacing, "take_snapshot", lambda runs_dir, models: self.runs / "code" / self.code)
        self.looker = Looker(self.runs, lambda conf: self.scheduler)
        monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: self.scheduler))
        asked: Config = dataclasses.replace(
            composed("model=N"), steps=[10, 20], cooldown=0.2, runs_dir=str(self.runs), study="s"
        )
        self.jobs: list[Job] = make_jobs(branches_of(asked, ["evaluation.weights"]))
        record_study(self.jobs, COMMAND)
        rows = submit(self.jobs, SlurmOptions(), self.scheduler, COMMAND)
        (self.parent,), *branches = [row.ids for row in rows]
        self.branches = [job for ids in branches for job in ids]

    def rows(self) -> list[StatusRow]:
        return self.looker.look(what_is_asked(self.runs, "s")).rows

    def dependencies(self) -> list[str]:
        return [submission.dependency for submission in self.scheduler.submissions]

    def status(self, *words: str) -> int:
        return status.main([*words, "--runs", str(self.runs)])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_branch_waits_for_the_job_before_it(bench: Bench) -> None:
    assert bench.dependencies() == ["", *[f"afterany:{bench.parent}"] * 2]
    of_parent, of_branches = bench.rows()[:2], bench.rows()[2:]
    assert [(row.budget, row.state, row.text) for row in of_parent] == [
        (8, "waiting", "other jobs come first"),
        (16, "waiting", "other jobs come first"),
    ]
    assert [(row.budget, row.state, row.text) for row in of_branches] == [
        (10, "waiting", "for the job before it"),
        (20, "waiting", "for the job before it"),
    ]


def failed(bench: Bench, kept: int | None) -> None:
    """All of them, the parent with a checkpoint."""
    for job in (bench.parent, *bench.branches):
        bench.scheduler.fail(job)
    if kept:
        (bench.jobs[0].open().checkpoints / f"step-{kept:08d}").mkdir(parents=True)


def test_what_failed_together_is_retried_in_order(bench: Bench) -> None:
    failed(bench, None)
    assert {row.state for row in bench.rows()} == {"failed"}
    assert bench.status("--retry-failed") == 0
    first, *rest = bench.scheduler.submissions[3:]
    assert first.dependency == ""
    assert [again.dependency for again in rest] == [f"afterany:{first.id}_0"] * len(rest)
    assert {row.text for row in bench.rows()} == {"other jobs come first", "for the job before it"}


def test_a_branch_that_can_begin_waits_for_nothing(bench: Bench) -> None:
    """Its parent failed between the two starts."""
    failed(bench, 8)
    done = retry_failed(bench.looker, what_is_asked(bench.runs, "s"))
    after = {line.split(",")[0].split()[-1]: line.partition(", after ")[2] for line in done.lines}
    ids = {line.split(",")[0].split()[-1]: line.split()[1].rstrip(":") for line in done.lines}
    parent, early, late = (job.name for job in bench.jobs)
    assert after == {parent: "", early: "", late: ids[parent]}


def test_a_branch_alone_waits_for_a_parent_in_the_queue(bench: Bench) -> None:
    for job in bench.branches:
        bench.scheduler.fail(job)
    assert bench.status(bench.jobs[1].name, "--retry-failed") == 0
    (again,) = bench.scheduler.submissions[3:]
    assert again.dependency == f"afterany:{bench.parent}"


def test_replaced_branches_wait_for_the_new_parent(bench: Bench) -> None:
    bench.code = "fedcba9876543210"
    assert bench.status("--replace", "--yes") == 0
    parent, branches = bench.scheduler.submissions[3:]
    assert parent.dependency == f"afterany:{bench.parent}"
    waits = branches.dependency.removeprefix("afterany:").split(":")
    assert {*waits} == {bench.parent, *bench.branches, f"{parent.id}_0"}
    assert bench.scheduler.active() == [f"{parent.id}_0", f"{branches.id}_0", f"{branches.id}_1"]


# ------------------------------------------------------------------------------------------------- a real study


def test_a_real_study_from_beginning_to_end(fcdm: Command, tmp_path: Path) -> None:
    """Nothing is left for ever, and the words of the command choose branches."""
    words = (*TINY, "model=N", "steps=[4]", "cooldown=null,0.5", "study=s", "hydra/launcher=local")

    def rows(*more: str) -> list[Any]:
        done = fcdm("s", *more, "--json", module="fcdm.status")
        assert done.returncode == 0, done.stderr
        return [(row["run"].rpartition("-")[0], row["budget"], row["state"]) for row in json.loads(done.stdout)]

    assert fcdm("-m", *words, timeout=400).returncode == 0
    every = [("N-digits-8px", 4), ("N-digits-8px", 2), *[("N-digits-8px-cooldown-2-4", 4)] * 2]
    assert rows() == [(*one, "done") for one in every]
    assert rows("cooldown=0.5") == [("N-digits-8px-cooldown-2-4", 4, "done")] * 2
    assert rows("cooldown=null", "protocol=trained") == [("N-digits-8px", 2, "done")]
    (branch,) = tmp_path.glob("runs/N-digits-8px-cooldown-*")
    (parent,) = set(tmp_path.glob("runs/N-digits-8px-*")) - {branch}
    told = json.loads((branch / "run.json").read_text())["branch"]
    of_parent = json.loads((parent / "run.json").read_text())
    assert "branch" not in of_parent
    assert told == {"parent": of_parent["id"], "name": parent.name, "start": 2, "end": 4, "share": 0.5}
    lines = fcdm("s", module="fcdm.status").stdout.splitlines()
    assert sum(" of ema weights " in line for line in lines) == sum(" of raw weights " in line for line in lines) == 1
    again = fcdm("-m", *words)
    assert again.returncode == 0
    assert again.stdout.count("done") == 2
