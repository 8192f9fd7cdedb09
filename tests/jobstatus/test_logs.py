"""`fcdm.status --log` and `--follow`, and the line that opens a shell beside a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fcdm import status
from fcdm.jobstatus.collect import Looker
from fcdm.jobstatus.logs import follow_log, shell_beside
from fcdm.jobstatus.rows import StatusRow
from fcdm.jobstatus.status_table import next_steps, what
from tests.support.status_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The command line asks the SLURM in memory, and looks often."""
    world = World(tmp_path)
    monkeypatch.setattr(status, "Looker", lambda runs_dir: Looker(runs_dir, lambda conf: world.scheduler))
    monkeypatch.setattr(status, "EVERY_S", 0.01)
    monkeypatch.chdir(tmp_path)
    return world


def log(world: World, name: str, text: str) -> Path:
    path = world.runs / name / "log.txt"
    path.write_text(text)
    return path


def test_the_last_lines_of_a_run_with_their_path(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("N-x-0000000a", step=50)
    world.study(asked={"N-x-0000000a": (100,)})
    (job,) = world.launch("N-x-0000000a")
    log(world, "N-x-0000000a", "".join(f"line {number}\n" for number in range(100)))
    for words in (["--log", "N-x-0000000a"], ["N-x", "--log"], ["--log", job], ["--log", "waiting"]):
        assert status.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "==> runs/N-x-0000000a/log.txt <=="
        assert lines[1:41] == [f"line {number}" for number in range(60, 100)]


def test_what_slurm_itself_printed_is_shown_too(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("N", step=50)
    world.study()
    (job,) = world.launch("N")
    world.scheduler.fail(job)
    log(world, "N", "loading\n")
    world.slurm_log(job, "slurmstepd: error: no such user\n")
    assert status.main(["--log", job]) == 0
    out = capsys.readouterr().out
    assert "==> runs/N/log.txt <==\nloading\n" in out
    assert f"{job}.log <==\nslurmstepd: error: no such user\n" in out
    assert out.count("no such user") == 1
    for budget in (100, 200):
        world.evaluate("N", budget)
    assert status.main(["--log", "N"]) == 0
    assert "loading" in capsys.readouterr().out, "of what is done, too"


def test_logs_of_several_runs_are_short(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("N", "M", "B"):
        world.run(name)
    world.study(asked=dict.fromkeys(("N", "M", "B"), (100,)))
    world.launch("N", "M", "B")
    for name in ("N", "M"):
        log(world, name, "".join(f"{name} {number}\n" for number in range(100)))
    assert status.main(["--log", "s"]) == 0
    out = capsys.readouterr().out
    assert (out.count("N 9"), out.count("M 9"), "N 89" in out) == (10, 10, False)
    assert "B: no log: nothing has printed into B/log.txt (it is waiting, other jobs come first)" in out
    assert status.main(["--log", "B"]) == 1
    assert capsys.readouterr().err.startswith("fcdm.status: B: no log: nothing has printed")


def test_logs_of_hundreds_are_those_that_need_a_look(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"run{number:03d}" for number in range(60)]
    for name in names:
        log(world, str(world.run(name, step=100, evaluated=[100]).name), f"{name} says\n")
    world.run("zz")
    log(world, "zz", "zz says\n")
    world.study(asked=dict.fromkeys([*names, "zz"], (100,)))
    (job,) = world.launch("zz")
    world.scheduler.fail(job)
    assert status.main(["--log"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "zz says"
    assert sum(line.startswith("==>") for line in lines) == 20
    assert lines[-1].startswith("... and 41 more runs: choose by words")


def test_a_process_of_a_terminal_has_no_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("N", step=50)
    world.claim("N", here=True)
    world.study()
    for mode in ("--log", "--follow"):
        assert status.main([mode, "N"]) == 1
        assert capsys.readouterr().err == "fcdm.status: N: it prints into its terminal, and has no log\n"


def test_following_bears_with_a_log_that_is_cut_or_replaced_and_ends_with_the_job(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("N")
    world.study(asked={"N": (100,)})
    (job,) = world.launch("N")
    path = world.runs / "N" / "log.txt"

    def replaced() -> None:
        (world.runs / "N" / "new").write_text("a file in its place, longer than what was there before\n")
        (world.runs / "N" / "new").rename(path)

    def ends() -> None:
        with open(path, "a") as file:
            file.write("the last words\n")
        world.evaluate("N", 100)
        world.scheduler.end(job)

    story: list[Callable[[], object]] = [
        lambda: None,
        lambda: path.write_text("first\nhalf a l"),
        lambda: path.write_text("first\nhalf a line\n"),
        lambda: path.write_text("cut\n"),
        replaced,
        ends,
    ]

    def look() -> tuple[list[StatusRow], bool]:
        story.pop(0)()
        rows = world.rows()
        return rows, any(row.active for row in rows)

    (row,) = follow_log(look, world.runs, 0.0)
    assert row.state == "done"
    told = capsys.readouterr()
    assert told.err == "N is waiting (other jobs come first)\n"
    assert told.out == (
        "==> runs/N/log.txt <==\nfirst\nhalf a line\ncut\n"
        "a file in its place, longer than what was there before\nthe last words\n"
    )


def test_follow_says_how_it_ended(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("N", step=50)
    world.study()
    (job,) = world.launch("N")
    world.scheduler.fail(job)
    log(world, "N", "KeyError: 'x'\n")
    assert status.main(["--log", "--follow", job]) == 1
    told = capsys.readouterr()
    assert told.out == "==> runs/N/log.txt <==\nKeyError: 'x'\n"
    assert told.err.splitlines()[0] == f"N  100  failed  {job}  KeyError: 'x', log: runs/N/log.txt"


def test_follow_takes_one_run_or_the_one_that_runs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("N", "M"):
        world.run(name)
    world.study(asked={"N": (100,), "M": (100,)})
    world.launch("N", "M")
    assert status.main(["--follow"]) == 1
    assert capsys.readouterr().err == "fcdm.status: --follow follows the log of one run, and 2 are chosen: N, M\n"


def test_ctrl_c_ends_following_with_130(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run("N")
    world.study()
    world.launch("N")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fcdm.jobstatus.logs.time.sleep", interrupted)
    assert status.main(["--follow", "N"]) == 130
    assert len(world.scheduler.active()) == 1


def test_a_shell_beside_a_running_job_by_its_plain_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun takes no `1_0`."""
    for name in ("N", "M"):
        world.run(name)
    world.study(asked={"N": (100,), "M": (100,)})
    _, job = world.launch("N", "M")
    assert not any("srun" in line for line in next_steps(world.look(), ["s"]))
    world.scheduler.start(job)
    assert "a shell beside a job: srun --jobid=3 --overlap --pty bash" in next_steps(world.look(), ["s"])
    (other,) = world.launch("M", conf="/etc/my other.conf")
    world.scheduler.end(job)
    world.scheduler.start(other)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    assert shell_beside(world.rows()).startswith("SLURM_CONF='/etc/my other.conf' srun --jobid=")
    monkeypatch.setenv("SLURM_CONF", "/etc/my other.conf")
    assert shell_beside(world.rows()).startswith("srun --jobid=")


def test_a_running_row_says_where_its_log_is_before_there_is_one(world: World) -> None:
    world.run("N")
    world.study()
    (job,) = world.launch("N")
    world.scheduler.start(job)
    assert what(world.rows()[0]) == "starting, step 0/100, log: runs/N/log.txt"
