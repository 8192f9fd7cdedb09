"""What cannot be taken back is never denied: submitted is submitted, and what SLURM does not end is not "cancelled"."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fcdm import status
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE
from fcdm.jobstatus.actions import cancel
from fcdm.jobstatus.collect import Looker, what_is_asked
from fcdm.slurm.client import JobInfo, Refused
from fcdm.slurm.ledger import Task, with_queued
from tests.support.fake_scheduler import FakeScheduler
from tests.support.full_disk import SmallDisk
from tests.support.status_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def command(world: World, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """`python -m fcdm.status` on the SLURM in memory."""
    monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: world.scheduler))
    return status.main([*words, "--runs", str(world.runs)])


# ------------------------------------------------------------------------------------------------- a full disk


def failed_on(disk: SmallDisk) -> World:
    """Two runs on this disk whose jobs have failed; it is full now."""
    world = World(disk.folder)
    for name in ("N", "M"):
        world.run(name, step=50)
    world.study(asked={"N": (100,), "M": (100,)})
    for job in world.launch("N", "M"):
        world.scheduler.fail(job)
    world.rows()  # so that nothing is read for the first time from a full disk
    disk.fill()
    return world


def test_a_retry_on_a_full_disk_says_what_it_submitted_and_submits_once(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = failed_on(small_disk)
    assert command(world, monkeypatch, "s", "--retry-failed") == 0
    told = capsys.readouterr()
    assert [line[:13] for line in told.out.splitlines() if line.startswith("submitted")] == [
        "submitted 4_0",
        "submitted 4_1",
    ]
    assert sum("the disk is full" in line for line in told.out.splitlines()) == 1
    assert not told.err
    assert world.ids("N") == ["1_0"], "nothing could be noted"
    assert world.states() == ["waiting", "waiting"], "the queue has the script's name"
    assert command(world, monkeypatch, "s", "--retry-failed") == 0
    assert capsys.readouterr().out == "nothing has failed\n"
    assert len(world.scheduler.submissions) == 2


def test_what_a_full_disk_forgot_is_found_in_accounting_and_noted(small_disk: SmallDisk) -> None:
    world = failed_on(small_disk)
    world.retry()
    world.scheduler.cancel(["4_0"])
    world.scheduler.fail("4_1")
    for job in ("1_0", "1_1", "4_0", "4_1"):
        world.scheduler.forget(job)
    assert world.states() == ["failed", "failed"], "as the last jobs that are known ended"
    small_disk.free()
    done = world.retry()
    assert [line.split(":")[0] for line in done.lines] == ["submitted 7_1"], "what was cancelled is not failed"
    assert world.ids("N") == ["1_0", "4_0"]
    assert world.ids("M") == ["1_1", "4_1", "7_1"]
    assert world.states() == ["cancelled", "waiting"]


def test_ids_from_the_queue_stand_in_the_order_of_submission() -> None:
    place = Path("/r/launches/a/0.sh")
    task = Task(place.parent, place, 1, Path("/r/N/jobs/1.json"), "all", ("1_1", "9_1"), 0.0, None)
    names = ("9_1", "5_1", "12_1", "12_0", "1_1")
    queue = {name: JobInfo(name, "FAILED", script=f"/elsewhere{place}") for name in names}
    (found,) = with_queued([task], queue)
    assert found.ids == ("1_1", "5_1", "9_1", "12_1")
    again = {name: info for name, info in queue.items() if name == "5_1"}
    (found,) = with_queued([task], again)
    assert found.ids[-1] == "5_1", "ids begin anew where a cluster is made anew"


class Deaf(FakeScheduler):
    """sbatch submits, and gives up before it hears so."""

    said: UserError = Refused("Batch job submission failed: Socket timed out on send/recv operation")
    then_down = ""

    def submit(self, script: Path, *, array: str = "", dependency: str = "") -> str:
        name = super().submit(script, array=array, dependency=dependency)
        if len(self.submissions) == 2:
            self.down = self.then_down
            raise self.said
        return name


@pytest.mark.parametrize("said", [Deaf.said, UserError("SLURM does not answer (sbatch took more than 120 s)")])
def test_an_sbatch_that_gave_up_may_have_submitted(
    world: World, monkeypatch: pytest.MonkeyPatch, said: UserError
) -> None:
    world.scheduler = Deaf()
    monkeypatch.setattr(Deaf, "said", said)
    world.run()
    world.study()
    (job,) = world.launch("N")
    world.scheduler.fail(job)
    assert world.retry().lines == ["submitted 3_0: trains and evaluates N"]
    assert world.retry().lines == []


def test_where_nobody_can_tell_whether_it_is_submitted_nobody_denies_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.scheduler = Deaf()
    monkeypatch.setattr(Deaf, "then_down", "SLURM does not answer")
    world.run()
    world.study()
    (job,) = world.launch("N")
    world.scheduler.fail(job)
    done = world.retry()
    assert not done.lines
    assert "nothing" not in done.problem
    assert "whether SLURM has the job of N" in done.problem
    world.scheduler.down = ""
    assert world.states() == ["waiting", "waiting"]


# ------------------------------------------------------------------------------------------------- cancel


def test_cancel_with_the_controller_down_is_no_success(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    world.study()
    world.launch("N")
    world.scheduler.down = "SLURM does not answer"
    for words in ((), ("s",)):
        assert command(world, monkeypatch, *words, "--cancel", "--yes") == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == "SLURM jobs are left alone: SLURM does not answer\n"
    assert command(world, monkeypatch, "--retry-failed") == 1
    assert capsys.readouterr().err == "fcdm.status: nothing is submitted: SLURM does not answer\n"


def test_a_controller_that_goes_down_between_look_and_scancel(world: World) -> None:
    world.run()
    world.study()
    (job,) = world.launch("N")
    rows = world.rows()
    world.scheduler.down = "SLURM does not answer"
    done = cancel(world.looker, rows)
    assert not done.lines
    assert done.problem == f"not cancelled: {job} (SLURM does not answer)"


def test_what_scancel_may_not_end_is_named_and_the_rest_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("N", "M"):
        world.run(name)
    world.study(asked={"N": (100,), "M": (100,)})
    first, second = world.launch("N", "M", budgets=(100,))
    world.scheduler.keeps = {first: "Access/permission denied"}
    assert command(world, monkeypatch, "s", "--cancel", "--yes") == 1
    told = capsys.readouterr()
    assert told.out == f"cancelled job {second} of M\n"
    assert told.err == f"fcdm.status: not cancelled: {first} (Access/permission denied)\n"


def test_a_process_of_another_machine_that_goes_on_is_no_success(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(step=50)
    world.study()
    world.claim("N", beat=5)
    assert command(world, monkeypatch, "s", "--cancel", "--yes") == 1
    told = capsys.readouterr()
    assert "nothing waits or runs" not in told.out
    assert "stop it there" in told.err


# ------------------------------------------------------------------------------------------------- a deleted folder


@pytest.mark.parametrize(("study", "words"), [("s", ("s",)), ("s", ()), (None, ()), (None, ("N",))])
def test_a_deleted_folder_whose_job_is_in_the_queue_is_shown_and_can_be_cancelled(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    study: str | None,
    words: tuple[str, ...],
) -> None:
    world.run()
    world.run("M", step=200, evaluated=[100, 200])
    if study:
        world.study(study, asked={"N": (100,)})
    (job,) = world.launch("N")
    shutil.rmtree(world.runs / "N")
    for _ in range(2):
        assert command(world, monkeypatch, *words) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("N "))
        assert job in line
        assert "in the queue, folder gone" in line
        world.scheduler.start(job)
    assert command(world, monkeypatch, *words, "--cancel", "--yes") == 0
    assert capsys.readouterr().out == f"cancelled job {job} of N\n"
    assert world.scheduler.active() == []


def test_a_deleted_folder_beside_a_new_job_of_the_run(world: World) -> None:
    """Deleted, and made again by a command that did not see the old job: both are cancelled."""
    world.run()
    world.study(asked={"N": (100,)})
    (old,) = world.launch("N")
    shutil.rmtree(world.runs / "N")
    world.run()
    (world.runs / "N" / "jobs" / "7.json").write_text("{}")  # so that the new job's file has another name
    (new,) = world.launch("N")
    world.scheduler.start(new)
    rows = world.rows()
    assert rows[0].job == new
    assert {job for row in rows for _, job in row.cancel} == {old, new}


def test_a_job_that_failed_for_its_deleted_folder_is_its_command_s_business(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    world.run("M", step=200, evaluated=[100, 200])
    world.study(asked={"N": (100,)})
    (job,) = world.launch("N")
    shutil.rmtree(world.runs / "N")
    world.scheduler.fail(job)
    assert world.states() == ["failed"]
    assert command(world, monkeypatch, "s", "--retry-failed") == 0
    told = capsys.readouterr().out
    assert "its command continues it: N" in told
    assert "python -m fcdm.train -m study=s" in told
    assert len(world.scheduler.submissions) == 1
    world.run()
    (world.runs / "N" / "jobs" / "7.json").write_text("{}")  # made again by its command, under another file's name
    (new,) = world.launch("N")
    (row,) = world.rows()
    assert row.job == new, "the old failure has no row of its own"
    world.scheduler.end(new)
    shutil.rmtree(world.runs / "N")
    world.scheduler.forget(job)
    assert world.states() == ["not submitted"]


def test_old_launches_of_deleted_runs_do_not_ask_a_slurm_that_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    world.run("M", step=200, evaluated=[100, 200])
    world.launch("N")
    shutil.rmtree(world.runs / "N")
    world.scheduler.down = "there is no SLURM on this machine"
    assert command(world, monkeypatch) == 0
    assert "no SLURM" not in capsys.readouterr().out
    assert command(world, monkeypatch, "--cancel", "--yes") == 1, "its job may wait there"


def test_everything_shows_what_no_study_asks_for(world: World) -> None:
    world.run(step=100, evaluated=[100])
    world.study(asked={"N": (100,)})
    (job,) = world.launch("N")  # 100 and 200
    (other,) = world.launch("N", work=EVALUATE, budgets=(100,), after=job)
    assert [(row.budget, row.state, row.job) for row in world.rows(None)] == [
        (100, "done", None),
        (200, "waiting", job),
    ]
    assert other not in {name for row in world.rows(None) for _, name in row.cancel}, "what it does is done"
    assert world.states() == ["done"], "not of this study"
    assert what_is_asked(world.runs).everything
    assert json.loads((world.runs / "studies/s.json").read_text())["requests"][0]["budgets"] == [100]


# ------------------------------------------------------------------------------------------------- more than was said


def test_what_goes_with_a_cancelled_job_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("N", step=50, evaluated=[100])
    world.study(asked={"N": (100, 200, 300)})
    (job,) = world.launch("N", budgets=(100, 200, 300))
    assert command(world, monkeypatch, "--cancel", "steps=200") == 1
    told = capsys.readouterr()
    assert told.out == f"ending job {job} of N ends its steps=300 too\n"
    assert command(world, monkeypatch, "--cancel", "--yes") == 0
    assert capsys.readouterr().out == f"cancelled job {job} of N\n"


def test_of_two_clusters_the_silent_ones_jobs_are_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("N", "M"):
        world.run(name, step=50)
    world.study(asked={"N": (100,), "M": (100,)})
    (job,) = world.launch("N", budgets=(100,))
    world.launch("M", budgets=(100,), conf="/etc/other.conf")
    silent = FakeScheduler()
    silent.down = "SLURM does not answer"
    monkeypatch.setattr(
        status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: silent if conf else world.scheduler)
    )
    assert status.main(["--cancel", "--yes", "--runs", str(world.runs)]) == 1
    told = capsys.readouterr()
    assert told.out == f"cancelled job {job} of N\n"
    assert told.err == "SLURM jobs of /etc/other.conf are left alone: SLURM does not answer\n"


def test_a_retry_keeps_what_its_script_waits_for(world: World) -> None:
    """Though it waits for another job of its run too, and sbatch's own word would be all."""
    world.run("N", step=50)
    world.study(asked={"N": (100,)})
    (job,) = world.launch("N", budgets=(100,))
    (script,) = world.runs.glob("launches/*/0.sh")
    script.write_text("#!/bin/bash\n#SBATCH --dependency=singleton\n")
    world.scheduler.fail(job)
    (other,) = world.launch("N", budgets=(200,))
    world.retry()
    assert world.scheduler.submissions[-1].dependency == f"singleton,afterany:{other}"


# ------------------------------------------------------------------------------------------------- odd words


def test_a_word_too_long_for_a_file_is_no_study(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("N", step=50)
    world.study()
    for word in ("x" * 300, "study=" + "x" * 300):
        assert command(world, monkeypatch, word) == 1
        assert "no study" in capsys.readouterr().err


def test_two_folders_of_runs_are_not_one(tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--runs", str(world.runs), f"runs_dir={tmp_path}/other"]) == 1
    assert "one folder of runs at a time" in capsys.readouterr().err
    assert status.main(["--runs", str(world.runs), f"runs_dir={world.runs}"]) == 0
