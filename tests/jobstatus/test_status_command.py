"""`python -m fcdm.status` as a user meets it, beside a SLURM whose commands are small scripts with real output."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.slurm.client import Slurm
from tests.support.commands import environment
from tests.support.fake_runs import make_run, make_study
from tests.support.status_world import World

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# As printed by SLURM 22.05.8: `-O`, wait statuses as numbers, a job that was requeued into a held state.
QUEUE = [
    ("7_0", "COMPLETED", "None", "node1", "0", "0"),
    ("7_1", "FAILED", "NonZeroExitCode", "node1", "0", "35072"),
    ("7_2", "FAILED", "JobLaunchFailure", "node1", "0", "9"),
    ("7_3", "CANCELLED", "None", "node1", "0", "15"),
    ("7_4", "PENDING", "job requeued in held state", "", "1", "0"),
    ("7_5", "PENDING", "BeginTime", "", "1", "0"),
    ("7_6", "RUNNING", "None", "node[1-2]", "0", "0"),
]
# `sacct -n -X -P -D`: every start of a job; 5 is the plain id of 7_4 and was not asked for.
HISTORY = """7_1|FAILED|9:0|node1|5|sbatch --parsable --array=0-6 SCRIPT
7_3|CANCELLED by 0|0:0|node1|5|sbatch --parsable --array=0-6 SCRIPT
7_5|PREEMPTED|0:0|node1|5|sbatch --parsable --array=0-6 SCRIPT
7_5|PENDING|0:0|None assigned|5|sbatch --parsable --array=0-6 SCRIPT
15_3|COMPLETED|0:0|node1|525600|sbatch -p high --wrap sleep 20
"""


class Commands:
    """A folder to put before PATH, with squeue, sacct, sbatch and scancel in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.calls = folder / "calls"
        self.write("squeue", "cat $0.out")
        self.write("sacct", "cat $0.out")
        self.write("sbatch", "echo 40")
        self.write("scancel", "exit 0")
        self.queue("", [])
        (folder / "sacct.out").write_text("")

    def write(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n{body}\n')
        path.chmod(0o755)

    def queue(self, script: str, rows: list[tuple[str, ...]]) -> None:
        ends = [(*row, "1-02:00:00", str(100 + at), "(null)") for at, row in enumerate(rows)]
        lines = ["".join(f"{text:60}" for text in row) + f"{script:4096}\n" for row in ends]
        (self.folder / "squeue.out").write_text("".join(lines))

    @property
    def path(self) -> str:
        return f"{self.folder}:/usr/bin:/bin"

    def called(self, name: str) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path / "bin")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def status(tmp_path: Path, commands: Commands) -> Run:
    def run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fcdm.status", *arguments],
            cwd=tmp_path,
            env=environment(PATH=path or commands.path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def seven(world: World, commands: Commands) -> Path:
    """Array 7 of seven runs, in the states of QUEUE. Its script."""
    names = [f"run{number}" for number in range(7)]
    for name in names:
        world.run(name, step=50)
    world.study(asked=dict.fromkeys(names, (100,)))
    world.scheduler._next = 7
    world.launch(*names)
    (script,) = (world.runs.absolute() / "launches").glob("*/*.sh")
    commands.queue(str(script), QUEUE)
    (commands.folder / "sacct.out").write_text(HISTORY.replace("SCRIPT", str(script)))
    world.evaluate("run0", 100)
    return script


def test_the_table_from_real_output(world: World, commands: Commands, status: Run) -> None:
    seven(world, commands)
    done = status("s")
    assert (done.returncode, done.stderr) == (0, "")
    totals, nothing, *lines = done.stdout.splitlines()
    assert (totals, nothing) == ("1 done, 1 running, 2 waiting, 2 failed, 1 cancelled", "")
    states = ["done", "failed", "failed", "cancelled", "waiting", "waiting", "running"]
    assert [line.split()[2] for line in lines[:7]] == states
    assert "killed by SIGKILL" in lines[1]
    assert "killed by SIGKILL" in lines[2]
    assert lines[3].endswith("by root, at step 50/100")
    assert "held (job requeued in held state): scontrol release 7_4" in lines[4]
    assert lines[5].endswith("requeued, starts soon, at step 50/100, preempted 1 time, requeued 1 time")
    assert "python -m fcdm.status s --retry-failed" in done.stdout
    assert "go on with the rest: python -m fcdm.train -m study=s" in done.stdout
    (asked,) = commands.called("sacct")
    assert "-j 7_1,7_2,7_3,7_4,7_5 " in asked, "neither what is done nor what just runs"


def test_json(world: World, commands: Commands, status: Run) -> None:
    seven(world, commands)
    rows = json.loads(status("s", "--json").stdout)
    assert [row["state"] for row in rows][:3] == ["done", "failed", "failed"]
    assert rows[5]["preempted"] == 1


def test_retry_failed_calls_sbatch_once(world: World, commands: Commands, status: Run) -> None:
    script = seven(world, commands)
    done = status("s", "--retry-failed")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "submitted 40_1: trains and evaluates run1",
        "submitted 40_2: trains and evaluates run2",
    ]
    assert commands.called("sbatch") == [f"--parsable --array=1,2 {script}"]
    assert world.ids("run1") == ["7_1", "40_1"]
    commands.queue(str(script), [*QUEUE, *((f"40_{n}", "PENDING", "Priority", "", "0", "0") for n in (1, 2))])
    assert status("s", "--retry-failed").stdout == "nothing has failed\n"


def test_a_refused_retry_is_one_line(world: World, commands: Commands, status: Run) -> None:
    seven(world, commands)
    commands.write("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    done = status("s", "--retry-failed")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fcdm.status: nothing is submitted: Batch job submission failed: Invalid account\n"


def test_cancel_wants_a_yes(world: World, commands: Commands, status: Run) -> None:
    seven(world, commands)
    refused = status("s", "--cancel")
    assert refused.returncode == 1
    assert (
        refused.stderr == "fcdm.status: --cancel would end 3 SLURM jobs: say --yes as well where nobody can be asked\n"
    )
    assert commands.called("scancel") == []
    done = status("s", "--cancel", "--yes")
    assert commands.called("scancel") == ["7_4 7_5 7_6"]
    assert done.stdout.splitlines()[0] == "ending job 7_4 of run4 ends its steps=200 too"
    assert done.stdout.splitlines()[3] == "cancelled job 7_4 of run4"


@pytest.mark.parametrize(("answer", "ended"), [("n", False), ("", False), ("y", True)])
def test_cancel_asks_on_a_terminal(world: World, commands: Commands, tmp_path: Path, answer: str, ended: bool) -> None:
    seven(world, commands)
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "fcdm.status", "s", "--cancel"],
        cwd=tmp_path,
        env=environment(PATH=commands.path),
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "end 3 SLURM jobs? [y/N]" in done.stdout
    assert bool(commands.called("scancel")) == ended


def test_no_slurm_here_is_one_line_beside_what_the_files_say(world: World, status: Run, commands: Commands) -> None:
    seven(world, commands)
    done = status("s", path="/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 done, 6 unknown" in done.stdout
    assert sum("no SLURM on this machine" in line for line in done.stdout.splitlines()) == 1
    assert status("s", "--retry-failed", path="/nowhere").returncode == 1
    refused = status("s", "--cancel", "--yes", path="/nowhere")
    assert (refused.returncode, refused.stdout) == (1, ""), "something may wait or run"
    assert "no SLURM on this machine" in refused.stderr


def test_a_controller_that_does_not_answer(world: World, status: Run, commands: Commands) -> None:
    seven(world, commands)
    commands.write("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    done = status("s")
    assert done.returncode == 0
    assert "Unable to contact slurm controller" in done.stdout
    assert commands.called("sacct") == []


def test_where_nothing_was_submitted_slurm_is_not_asked(tmp_path: Path, status: Run, commands: Commands) -> None:
    runs = tmp_path / "mine"
    folders = [make_run(runs, model, grids=False) for model in ("N", "dit/N-2")]
    make_study(runs, folders, budgets=(100, 800, 1600))
    done = status("demo", "--runs", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 done, 2 not submitted" in done.stdout
    assert not commands.calls.exists()
    assert status("--runs", "mine").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nope",), "fcdm.status: 'nope' is no study, run, state, key=value or SLURM job in runs: "),
        (("--runs", "nowhere"), "fcdm.status: no runs in nowhere: there is no such folder"),
        (("s", "--watch", "--cancel"), "fcdm.status: --watch, --retry-failed, --cancel, --replace, --withdraw"),
        (("s", "--yes"), "fcdm.status: --yes answers --cancel"),
        (("s", "--log", "--all"), "fcdm.status: --all is for the table"),
        (("foo=bar",), "fcdm.status: no run here says foo: say one of "),
    ],
)
def test_bad_input_is_one_line(world: World, status: Run, arguments: tuple[str, ...], said: str) -> None:
    world.run()
    world.study()
    done = status(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_damaged_launch_is_one_line(world: World, status: Run) -> None:
    world.run()
    world.study()
    world.launch("N")
    (path,) = world.runs.glob("launches/*/launch.json")
    path.write_text("{")
    done = status("s")
    assert done.returncode == 1
    assert "launch.json is damaged" in done.stderr
    assert done.stderr.count("\n") == 1


def test_watch_ends_by_itself_or_with_ctrl_c(world: World, commands: Commands, tmp_path: Path) -> None:
    script = seven(world, commands)
    words = [sys.executable, "-m", "fcdm.status", "--watch", "s"]
    out = tmp_path / "out"

    def start() -> subprocess.Popen[bytes]:
        with open(out, "wb") as file:
            return subprocess.Popen(words, cwd=tmp_path, env=environment(PATH=commands.path), stdout=file, stderr=file)

    process = start()
    while "2 waiting" not in out.read_text():
        assert process.poll() is None, out.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in out.read_text()
    commands.queue(str(script), QUEUE[:4])
    (commands.folder / "sacct.out").write_text("")
    process = start()
    assert process.wait() == 1, "not all is done"
    assert out.read_text().splitlines()[-1].startswith("1 done")


def test_output_that_nobody_reads_on(world: World, commands: Commands, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    seven(world, commands)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m fcdm.status | true"],
        cwd=tmp_path,
        env=environment(PATH=commands.path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# ------------------------------------------------------------------------------------------------- the parser


@pytest.fixture
def real(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PATH", commands.path)
    return Slurm()


def test_queue_of_real_output(real: Slurm, commands: Commands) -> None:
    script = f"/runs with spaces/{'x' * 900}/ü|0.sh"
    commands.queue(script, QUEUE)
    found = real.queue()
    assert list(found) == [row[0] for row in QUEUE]
    assert {info.script for info in found.values()} == {script}
    assert [info.exit_code for info in found.values()][:4] == ["0:0", "137:0", "0:9", "0:15"]
    assert found["7_4"].reason == "job requeued in held state"
    assert found["7_6"].nodes == "node[1-2]"
    assert found["7_6"].plain_id == "106", "srun takes no 7_6"
    assert found["7_6"].limit_minutes == 26 * 60
    assert [info.active for info in found.values()] == [False, False, False, False, True, True, True]
    commands.queue("(null)", QUEUE[:1])
    assert real.queue()["7_0"].script == "", "a job that was submitted with --wrap"


def test_history_of_real_output(real: Slurm, commands: Commands) -> None:
    (commands.folder / "sacct.out").write_text(HISTORY.replace("SCRIPT", "/a path/|0.sh"))
    found = real.history(["7_1", "7_3", "7_5", "5"])
    assert list(found) == ["7_1", "7_3", "7_5"]
    assert (found["7_3"].state, found["7_3"].cancelled_by) == ("CANCELLED", "root")
    assert (found["7_5"].state, found["7_5"].restarts, found["7_5"].preempted) == ("PENDING", 1, 1)
    assert found["7_1"].script == "/a path/|0.sh"
    commands.write("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert real.history(["7_1"]) == {}


def test_recall_has_the_tasks_of_arrays_that_never_started(real: Slurm, commands: Commands) -> None:
    lines = ["2_[1,3-4%2]|CANCELLED by 0|0:0||5|sbatch --array=0-4%2 /a b/0.sh", "9|COMPLETED|0:0|n|5|sbatch --wrap x"]
    (commands.folder / "sacct.out").write_text("\n".join(lines) + "\n")
    found = real.recall(0.0)
    assert list(found) == ["2_1", "2_3", "2_4", "9"]
    assert found["2_3"].script == "/a b/0.sh"
    (asked,) = commands.called("sacct")
    assert f"-u {os.getuid()} " in asked


def test_scancel_goes_through_all_and_names_those_it_could_not_end(real: Slurm, commands: Commands) -> None:
    said = "scancel: error: Kill job error on job id {}: {}"
    lines = [
        said.format("7_1", "Access/permission denied"),
        said.format("7_2", "Job/step already completing or completed"),
    ]
    commands.write("scancel", "\n".join([*(f"echo '{line}' >&2" for line in lines), "exit 239"]))
    assert real.cancel(["7_0", "7_1", "7_2"]) == {"7_1": "Access/permission denied"}
    commands.write("scancel", "echo 'scancel: fatal: no configuration' >&2; exit 1")
    with pytest.raises(UserError, match=r"SLURM does not answer \(scancel: scancel: fatal"):
        real.cancel(["7_0"])


def test_history_of_an_id_that_was_used_before(real: Slurm, commands: Commands) -> None:
    lines = ["7_1|PREEMPTED|0:0|n|5|sbatch /old/0.sh", "7_1|FAILED|1:0|n|5|sbatch /new/0.sh"]
    (commands.folder / "sacct.out").write_text("\n".join(lines) + "\n")
    info = real.history(["7_1"])["7_1"]
    assert (info.state, info.restarts, info.preempted, info.script) == ("FAILED", 0, 0, "/new/0.sh")
