"""The development cluster, for real: every test that starts one ends it, and no process of it may be left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT
from tests.support.slurm_lab import require_slurm
from tools.devcluster import conf
from tools.devcluster.cluster import DevCluster
from tools.devcluster.system import ClusterError

SCRIPT = ROOT / "tools" / "devcluster"

STUBBORN = """#!/bin/bash
trap '' TERM
setsid --fork sleep 4321
sleep 4322 &
while true; do sleep 4323; done
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`cluster("a", nodes=1)` is a Cluster, not up yet, that is ended and removed after the test."""
    require_slurm()
    made: list[Any] = []

    def make(name: str = "cluster", **settings: Any) -> Any:
        made.append(DevCluster(tmp_path / name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.down(purge=True)
        assert not each.processes()


def command(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python tools/devcluster ...` from elsewhere, with pipes that must not stay open."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--folder", str(folder)],
        cwd=folder.parent,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
    )


def ask(cluster: Any, *command: str) -> str:
    """What a command of slurm's prints."""
    variables = {**os.environ, **cluster.environment()}
    done = subprocess.run(command, env=variables, cwd=cluster.folder.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(expected: Any, look: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while (seen := look()) != expected:
        assert time.monotonic() < end, f"{seen!r} and not {expected!r}"
        time.sleep(0.1)


def accounted(cluster: Any, job: str) -> list[str]:
    """The states of a job, one per task of an array, as sacct has them."""
    return ask(cluster, "sacct", "-X", "-n", "-P", "-o", "State", "-j", job).splitlines()


def living(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            found.append(pid)
    return found


def test_up_and_down_by_the_command_line(cluster: Callable[..., Any]) -> None:
    mine = cluster()
    folder = mine.folder
    assert command(folder, "status").returncode == 1
    assert command(folder, "down").returncode == 0  # nothing runs, and that is fine
    assert not folder.exists()

    first = command(folder, "up", "--nodes", "2", "--cpus", "3", "--option", "MaxArraySize=11")
    assert first.returncode == 0, first.stderr
    assert f"export SLURM_CONF={mine.conf}" in first.stdout
    status = command(folder, "status")
    assert status.returncode == 0, status.stdout
    daemons = mine.daemons()
    assert sorted(daemons) == sorted([*conf.SERVICES, "node1", "node2"])
    assert all(f"pid {pid}" in status.stdout for pid in daemons.values())
    # A session of their own: Ctrl-C in the terminal of `up` is not for them.
    assert all(os.getsid(pid) == pid for pid in daemons.values())

    again = command(folder, "up")
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert mine.daemons() == daemons
    other = command(folder, "up", "--nodes", "3")
    assert other.returncode == 1
    assert "`down` first" in other.stderr
    assert other.stderr.count("\n") == 1

    assert "MaxArraySize            = 11\n" in ask(mine, "scontrol", "show", "config")
    partitions = ask(mine, "sinfo", "-h", "-o", "%P %c %G %D").splitlines()
    assert partitions == ["main* 3 gpu:2 2", "high 3 gpu:2 2"]
    # What a job sees: its node and the GPUs it asked for; and there is memory to run in.
    shown = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"'
    options = ("--parsable", "--gres=gpu:2", "--mem=2G", "--output=shown.txt")
    job = ask(mine, "sbatch", *options, "--nodelist=node2", "--wrap", shown)
    until(["COMPLETED"], lambda: accounted(mine, job))
    assert (folder.parent / "shown.txt").read_text() == "node2 0,1\n"

    # Processes that do not end when told to, in a session of their own, and a job that waits.
    (folder.parent / "stubborn.sh").write_text(STUBBORN)
    stubborn = ask(mine, "sbatch", "--parsable", "--array=0-1", "stubborn.sh")
    waiting = ask(mine, "sbatch", "--parsable", f"--dependency=afterok:{stubborn}", "--wrap", "true")
    until(8, lambda: len([process for process in mine.processes() if process.kind == "task"]))
    pids = [process.pid for process in mine.processes()]
    assert len(living(pids)) >= 6 + 2 + 8  # daemons, job steps, tasks
    down = command(folder, "down")
    assert (down.returncode, down.stderr) == (0, "")
    assert living(pids) == []
    assert mine.processes() == []
    assert command(folder, "status").returncode == 1

    # Stopped, it may become another; what it had accounted for stays.
    assert command(folder, "up", "--nodes", "1").returncode == 0
    assert sorted(mine.daemons()) == sorted([*conf.SERVICES, "node1"])
    assert accounted(mine, job) == ["COMPLETED"]
    assert {state.split()[0] for state in accounted(mine, stubborn) + accounted(mine, waiting)} == {"CANCELLED"}
    assert command(folder, "down", "--purge").returncode == 0
    assert not folder.exists()


def test_what_was_killed_comes_back(cluster: Callable[..., Any]) -> None:
    mine = cluster(nodes=2, gpus=0)
    assert mine.up() is True
    assert mine.up() is False
    job = ask(mine, "sbatch", "--parsable", "--nodelist=node1", "--output=job.txt", "--wrap", "sleep 9; echo done")
    until("RUNNING", lambda: ask(mine, "squeue", "-h", "-j", job, "-o", "%T"))
    # The controller saves some seconds after a change: killed before that, it starts the job anew, and SLURM fails it.
    seen = time.time()
    ask(mine, "scontrol", "update", f"jobid={job}", "comment=runs")
    until(True, lambda: (mine.folder / "state" / "job_state").stat().st_mtime > seen)

    killed = mine.daemons()
    for role in ("slurmctld", "node1"):
        os.kill(killed[role], signal.SIGKILL)
    until([], lambda: living([killed["slurmctld"], killed["node1"]]))
    status = command(mine.folder, "status")
    assert status.returncode == 1
    assert "partly up" in status.stdout
    with pytest.raises(ClusterError, match="down"):
        DevCluster(mine.folder, nodes=1).up()
    assert mine.up() is True
    assert {role for role, pid in mine.daemons().items() if killed[role] != pid} == {"slurmctld", "node1"}
    until(["COMPLETED"], lambda: accounted(mine, job))
    assert (mine.folder.parent / "job.txt").read_text() == "done\n"

    # A whole node dies with all its processes and comes back.
    ask(mine, "sbatch", "--nodelist=node2", "--wrap", "sleep 4324")
    until(True, lambda: any(process.kind == "task" for process in mine.processes()))
    pids = mine.node_processes("node2")
    assert len(pids) >= 4  # slurmd, slurmstepd, sh, sleep
    assert mine.daemons()["node1"] not in pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until([], lambda: mine.node_processes("node2"))
    mine.start_node("node2")
    assert mine.node_states()["node2"] in ("idle", "mixed")
    with pytest.raises(ClusterError, match="node3"):
        mine.start_node("node3")

    # The machine goes down in the middle of things and starts anew.
    for process in mine.processes():
        os.kill(process.pid, signal.SIGKILL)
    until([], mine.processes)
    assert mine.up() is True
    assert accounted(mine, job) == ["COMPLETED"]


def test_two_side_by_side(cluster: Callable[..., Any]) -> None:
    # Too long for a socket, and with characters that slurm.conf does not take.
    one, two = cluster("one", nodes=1), cluster(f"two, with a name of its own [{'long' * 20}]", nodes=1)
    before = set(Path("/tmp").glob("fcdm-*"))
    starts = [threading.Thread(target=each.up) for each in (one, two, one)]  # and one of them twice at once
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert one.is_up()
    assert two.is_up()
    (private,) = {path for path in Path("/tmp").glob("fcdm-*") if (path / "cluster").resolve() == two.folder} - before
    assert private.stat().st_mode & 0o777 == 0o700

    job = ask(two, "sbatch", "--parsable", "--wrap", "srun true")
    until(["COMPLETED"], lambda: accounted(two, job))
    assert ask(one, "squeue", "-h", "-t", "all") == ""
    assert one.down() is True
    assert one.down() is False
    assert two.is_up()
    assert not one.processes()

    # Its folder is removed while it runs: the processes are found all the same.
    shutil.rmtree(two.folder)
    assert two.down() is True
    assert not two.processes()
    shutil.rmtree(private)  # nobody knows of it any more


def test_an_up_that_fails_or_is_killed_leaves_nothing_in_the_way(cluster: Callable[..., Any]) -> None:
    mine = cluster()
    wrong = command(mine.folder, "up", "--option", "StateSaveLocation=/proc/none")
    assert wrong.returncode == 1
    assert "slurmctld" in wrong.stderr
    assert "mkdir(/proc/none)" in wrong.stderr  # the end of its log
    assert not mine.processes()

    arguments = [sys.executable, str(SCRIPT), "up", "--folder", str(mine.folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as up:
        until(True, lambda: "slurmdbd" in mine.daemons())
        up.kill()
    assert mine.processes()
    assert command(mine.folder, "up").returncode == 0  # without the option that failed
    assert mine.is_up()


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = command(tmp_path / "cluster", "up", PATH=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert "make slurm" in done.stderr
    assert "slurm-wlm munge" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "cluster").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "0"], "--nodes 0: between 1 and 64"),
        (["--gpus", "-1"], "--gpus -1"),
        (["--option", "MaxArraySize"], "write KEY=VALUE"),
        (["--option", "Max Array=1"], "write KEY=VALUE"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = command(tmp_path / "cluster", "up", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    require_slurm()
    (tmp_path / "mine.txt").write_text("precious")
    for arguments in (["up"], ["down", "--purge"]):
        done = command(tmp_path, *arguments)
        assert done.returncode == 1
        assert "other files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
