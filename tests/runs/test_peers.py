"""Which processes are one command, by environments as SLURM 22.05 and torchrun make them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.runs.peers import Peers, address_of, peers
from fcdm.runs.processes import is_first_process
from tests.support.commands import Command

JOB = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost,b"}
"""A shell of `salloc -n4`."""
BATCH = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GTIDS": "0", "SLURM_TASK_PID": "1"}
STEP = {
    **BATCH,
    **{"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_GTIDS": "2,3"},
    **{"SLURM_STEP_NODELIST": "localhost,b", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
}
INTERACTIVE = {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
"""`salloc -n4` with use_interactive_step, and `srun --overlap --pty bash` beside a job: SLURM_NTASKS may be 4."""
TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "a", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"},
}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_")) or name in TORCHRUN:
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Peers:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return peers()


@pytest.mark.parametrize("environment", [{}, JOB, BATCH, INTERACTIVE, {"WORLD_SIZE": "1"}])
def test_one_process(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert given(monkeypatch, environment) == Peers()


def test_a_task_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = given(monkeypatch, STEP)
    assert (mine.rank, mine.count, mine.local_rank, mine.local_count, mine.nodes) == (3, 4, 1, 2, 2)
    assert mine.address == "localhost"
    assert all(12_000 <= port < 32_000 for port in mine.ports)
    assert not is_first_process()


@pytest.mark.parametrize("task", [None, "", "x", "self/task/0/../.."])
def test_a_task_whose_first_process_is_not_told(monkeypatch: pytest.MonkeyPatch, task: str | None) -> None:
    environment = {**STEP, "SLURM_TASK_PID": task}
    assert given(monkeypatch, {name: value for name, value in environment.items() if value is not None}).count == 4


@pytest.mark.parametrize(("terminal", "count"), [(True, 1), (False, 4)])
def test_a_shell_of_a_step_and_a_step_of_that_shell(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, count: int
) -> None:
    """Whose tasks inherit SLURM_PTY_PORT, and may begin with a program that starts this one in another group."""
    ours, end = os.openpty()
    words = (
        ["setsid", "--ctty", "sh", "-c", "echo; exec sleep 600"] if terminal else ["sh", "-c", "echo; exec sleep 600"]
    )
    streams = {"stdin": end if terminal else subprocess.DEVNULL, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **streams, start_new_session=not terminal) as task:  # type: ignore[call-overload]
        try:
            task.stdout.readline()
            assert given(monkeypatch, {**STEP, "SLURM_PTY_PORT": "1", "SLURM_TASK_PID": str(task.pid)}).count == count
        finally:
            task.kill()
    os.close(ours)
    os.close(end)


@pytest.mark.parametrize("other", [{"SLURM_STEP_ID": "4"}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "13"}])
def test_another_step_and_another_start_meet_elsewhere(monkeypatch: pytest.MonkeyPatch, other: dict[str, str]) -> None:
    first = given(monkeypatch, STEP)
    second = given(monkeypatch, other)
    assert first.call != second.call
    assert first.ports != second.ports


def test_another_command_of_the_same_step_meets_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    first = given(monkeypatch, STEP)
    monkeypatch.setattr(sys, "orig_argv", [*sys.orig_argv, "seed=1"])
    assert first.ports != peers().ports


def test_where_the_user_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = given(monkeypatch, {**STEP, "MASTER_ADDR": "a-ib0", "MASTER_PORT": "29511"})
    assert (mine.address, mine.ports) == ("a-ib0", (29511,))


def test_a_step_on_one_machine_needs_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = given(monkeypatch, {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "nowhere.invalid"})
    assert mine.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[04-16,20],a", "n04"), ("r[2,4]-n[01-16].x,login1", "r2-n01.x"), ("b7,n[1-2]", "b7")],
)
def test_the_first_of_a_list_of_nodes(monkeypatch: pytest.MonkeyPatch, nodes: str, first: str) -> None:
    monkeypatch.setattr("fcdm.runs.peers.address_of", lambda node: node)
    assert given(monkeypatch, {**STEP, "SLURM_STEP_NODELIST": nodes}).address == first


def test_node_names_that_do_not_resolve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\necho "NodeName=$5 Arch=x NodeAddr=127.0.0.1 NodeHostName=h"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert address_of("localhost") == "localhost"
    assert address_of("no-such-node-anywhere.invalid") == "127.0.0.1"


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step too: one task of it on each node may be a torchrun."""
    wanted = Peers(3, 4, 1, 2, 2, "a", (29500,), agent=True)
    assert given(monkeypatch, TORCHRUN) == wanted
    assert given(monkeypatch, {**STEP, "SLURM_STEP_NUM_TASKS": "2"}) == wanted


def test_ranks_set_by_hand_in_a_step_take_the_rest_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    mine = given(monkeypatch, {**STEP, **{name: TORCHRUN[name] for name in names}})
    assert (mine.rank, mine.local_rank, mine.local_count, mine.nodes) == (3, 1, 2, 2)


def test_one_process_may_be_asked_for_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, {**STEP, "RANK": "0", "WORLD_SIZE": "1"}) == Peers()


WRONG = [
    ({"WORLD_SIZE": None}, "RANK=3 is set, and WORLD_SIZE is not"),
    ({"RANK": None}, "WORLD_SIZE=4 is set, and RANK is not"),
    ({"RANK": None, **STEP, "WORLD_SIZE": "8"}, "WORLD_SIZE=8 is set, and this is one of 4 tasks"),
    ({"RANK": "4"}, "RANK=4 of WORLD_SIZE=4 cannot be"),
    ({"RANK": "-1"}, "RANK=-1 .* cannot be"),
    ({"RANK": "first"}, "RANK=first .* cannot be"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 .* cannot be"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x .* cannot be"),
    ({"MASTER_ADDR": None}, "MASTER_ADDR is not"),
    ({"MASTER_ADDR": None, "MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT is not"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 .* cannot be"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_what_contradicts_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str | None], said: str
) -> None:
    environment = {**TORCHRUN, **wrong}
    with pytest.raises(UserError, match=said) as refused:
        given(monkeypatch, {name: value for name, value in environment.items() if value is not None})
    assert "unset RANK and WORLD_SIZE" in str(refused.value)


@pytest.mark.parametrize("module", ["fcdm.train", "fcdm.prepare", "fcdm.benchmark"])
def test_every_command_refuses_in_one_line(fcdm: Command, module: str, tmp_path: Path) -> None:
    words = ["reference", f"images={tmp_path}"] if module == "fcdm.prepare" else ["model=N"]
    done = fcdm(*words, module=module, RANK="1")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{module}: RANK=1 is set, and WORLD_SIZE is not")
    assert done.stderr.count("\n") == 1


def test_a_launcher_of_processes_is_for_one(fcdm: Command) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    done = fcdm("-m", "model=N", "steps=4", "hydra/launcher=local", **place)
    assert done.returncode == 1
    assert "hydra/launcher=local is for one process" in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_asks_needs_no_torch() -> None:
    code = "import sys, fcdm.runs.peers, fcdm.engine.stop, fcdm.job; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
