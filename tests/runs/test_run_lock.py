"""Who writes in a run's folder, with real processes: refused, killed, raced, requeued, on another machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fcdm.errors import UserError
from fcdm.runs import processes, run_lock
from fcdm.runs.processes import ask_slurm, process_alive, start_time
from fcdm.runs.run_lock import RunHeld, claim, current_holder

CLAIM_AND_SLEEP = """
import sys, time
from pathlib import Path
from fcdm.runs.run_lock import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `folder` until a line is written to its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_SLEEP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


def never(job: str) -> bool | None:
    raise AssertionError("the scheduler was asked, but the process table knows")


def rewrite(folder: Path, **changes: Any) -> Path:
    """Changes the highest claim's file, as if another process or machine had written it."""
    path = max((folder / "holders").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def elsewhere(folder: Path, **changes: Any) -> Path:
    """An unreleased claim of another machine."""
    holder = claim(folder, never)
    facts = {"host": "node7", "boot": "0000-another-boot", "namespace": "pid:[1]", "pid": 4242}
    return rewrite(folder, **{**facts, "token": holder.claim.token, **changes})


def test_a_second_process_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path) as child:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(RunHeld, match=f"held by process {child.pid} on .*, last heartbeat . s ago") as caught:
            claim(tmp_path, never)
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        found = current_holder(tmp_path, never)
        assert found is not None
        assert found.claim is not None
        assert (found.alive, found.claim.pid) == (True, child.pid)
        child.communicate("\n", timeout=20)
    assert current_holder(tmp_path, never) is None, "released"
    with claim(tmp_path, never) as holder:
        assert holder.number == 2


def test_killed_hard_then_taken_over(tmp_path: Path) -> None:
    with another_process(tmp_path) as child:
        child.kill()
        # Not waited for yet: a zombie first, which is in the process table but works no more.
        while Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.01)
        found = current_holder(tmp_path, never)
        assert found is not None
        assert found.alive is False
        with claim(tmp_path, never) as holder:
            assert holder.number == 2
    found = current_holder(tmp_path, never)
    assert found is None


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    with another_process(tmp_path) as child:
        started = start_time(child.pid)
        assert started is not None
        assert process_alive(child.pid, started)
        assert not process_alive(child.pid, started - 1)
        rewrite(tmp_path, start=started - 1)
        with claim(tmp_path, never) as holder:
            assert holder.number == 2


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with claim(tmp_path, never), pytest.raises(RunHeld, match=f"held by process {os.getpid()} "):
        claim(tmp_path, never)


RACE = """
import sys, time
from pathlib import Path
from fcdm.runs.run_lock import RunHeld, claim
root = Path(sys.argv[1])
print("ready", flush=True)
held = []
for line in sys.stdin:
    number, start = line.split()
    while time.time() < float(start):
        pass
    try:
        held.append(claim(root / number))
        print("won", flush=True)
    except RunHeld as error:
        print("lost", error, flush=True)
"""


def test_of_many_that_take_over_at_once_exactly_one_wins(tmp_path: Path) -> None:
    rounds, racers = 30, 8
    with another_process(tmp_path / "dead") as child:
        dead = (tmp_path / "dead" / "holders" / "000001.json").read_text()
        child.kill()
    for number in range(rounds):
        if number % 3:  # a third of the races are for a folder that nobody has claimed yet
            holders = tmp_path / str(number) / "holders"
            holders.mkdir(parents=True)
            (holders / "000001.json").write_text(dead)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(racers)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for number in range(rounds):
            start = time.time() + 0.03
            for child in children:
                assert child.stdin is not None
                child.stdin.write(f"{number} {start}\n")
                child.stdin.flush()
            answers = [child.stdout.readline() for child in children if child.stdout is not None]
            winners = [child.pid for child, answer in zip(children, answers, strict=True) if answer == "won\n"]
            assert len(winners) == 1, answers
            losers = [answer for answer in answers if answer != "won\n"]
            assert all(f"held by process {winners[0]} " in answer for answer in losers), answers
            assert not list((tmp_path / str(number) / "holders").glob(".tmp-*"))
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_another_machine_without_a_scheduler_cannot_be_told(tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    os.utime(path, (time.time() - 7200, time.time() - 7200))
    with pytest.raises(RunHeld) as caught:
        claim(tmp_path, never)
    message = str(caught.value)
    assert "process 4242 on node7" in message
    assert "last heartbeat 2 h ago" in message
    assert f"if it is surely gone, remove {path}" in message
    assert "\n" not in message
    path.unlink()
    with claim(tmp_path, never):
        pass


def test_a_claim_that_cannot_be_read_is_not_overrun(tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    path.write_text("{")
    with pytest.raises(RunHeld, match=r"000001\.json cannot be read"):
        claim(tmp_path, never)


def test_this_machine_restarted_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = elsewhere(tmp_path, host=os.uname().nodename)
    with pytest.raises(RunHeld):  # it beat after our boot: a namesake, not our past
        claim(tmp_path, never)
    old = processes.boot_time() - 3600
    os.utime(path, (old, old))
    with claim(tmp_path, never) as holder:
        assert holder.number == 2


@pytest.mark.parametrize(("answer", "taken"), [(True, False), (None, False), (False, True)])
def test_the_scheduler_tells_of_a_job_elsewhere(tmp_path: Path, answer: bool | None, taken: bool) -> None:
    elsewhere(tmp_path, job="77", restart=1, node="node7")
    asked: list[str] = []

    def scheduler(job: str) -> bool | None:
        asked.append(job)
        return answer

    if taken:
        with claim(tmp_path, scheduler) as holder:
            assert holder.number == 2
    else:
        with pytest.raises(RunHeld, match=r"process 4242 on node7, SLURM job 77 \(restart 1\)"):
            claim(tmp_path, scheduler)
    assert asked == ["77"]


def test_what_the_scheduler_hides_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, job="77", user=os.geteuid() + 1)
    with pytest.raises(RunHeld, match="may still be held"):
        claim(tmp_path, lambda job: False)
    rewrite(tmp_path, user=os.geteuid(), cluster="berlin")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "paris")
    with pytest.raises(RunHeld, match="may still be held"):  # another cluster's job 77
        claim(tmp_path, never)


def test_a_requeued_job_takes_over_from_its_predecessor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, job="77", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    with pytest.raises(RunHeld, match="SLURM job 77"):  # another task of the same incarnation
        claim(tmp_path, lambda job: True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with claim(tmp_path, never) as holder:
        assert (holder.claim.job, holder.claim.restart, holder.claim.node) == ("77", 1, "node2")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with claim(tmp_path, never) as holder:
        assert holder.claim.job == "70_3"


@pytest.mark.parametrize(
    ("squeue", "sacct", "alive"),
    [
        ("echo RUNNING", None, True),
        ("echo COMPLETING", None, True),
        ("echo PENDING", None, False),
        ("echo 'CANCELLED by 1000'", None, False),
        ("echo NEW_STATE_OF_A_LATER_SLURM", None, None),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "echo FAILED", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "echo RUNNING", None),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "exit 1", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", None, False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "echo FAILED", None),
        (None, None, None),
    ],
)
def test_what_slurm_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str | None, sacct: str | None, alive: bool | None
) -> None:
    for name, script in (("squeue", squeue), ("sacct", sacct)):
        if script is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_slurm("77") is alive


def test_beat_tells_that_it_lives_and_notices_a_lost_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(tmp_path, never) as holder:
        os.utime(holder.path, (0, 0))
        holder.beat()
        assert holder.path.stat().st_mtime == 0, "at most every 10 s"
        monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.0)
        holder.beat()
        assert holder.path.stat().st_mtime > time.time() - 60
        content = holder.path.read_text()
        # Somebody removes the claim and takes the run: the same number again, another token.
        holder.path.write_text(content.replace(holder.claim.token, "0" * 16))
        with pytest.raises(RunHeld, match="lost the run to process"):
            holder.beat()
        holder.path.unlink()
        with pytest.raises(RunHeld, match="its claim was removed"):
            holder.beat()
        foreign = content.replace(holder.claim.token, "0" * 16)
        holder.path.write_text(foreign)
    assert holder.path.read_text() == foreign, "releasing leaves another's claim alone"


def test_a_beat_costs_next_to_nothing(tmp_path: Path) -> None:
    with claim(tmp_path, never) as holder:
        begin = time.perf_counter()
        for _ in range(10_000):
            holder.beat()
        assert (time.perf_counter() - begin) / 10_000 < 20e-6


def test_old_claims_are_pruned_and_numbers_grow(tmp_path: Path) -> None:
    for _ in range(9):
        with claim(tmp_path, never):
            pass
    assert sorted(path.name for path in (tmp_path / "holders").iterdir()) == [f"{n:06d}.json" for n in range(5, 10)]


def test_what_killed_claimers_left_does_not_outlive_the_run(tmp_path: Path) -> None:
    """However young it is: of one that was killed before, and of one that was killed while the run was held."""
    holders = tmp_path / "holders"
    holders.mkdir()
    (holders / ".tmp-000001.json-1-abcd").write_text("")
    with claim(tmp_path, never):
        assert [path.name for path in holders.iterdir()] == ["000001.json"]
        (holders / ".tmp-000002.json-1-abcd").write_text("{")
    assert [path.name for path in holders.iterdir()] == ["000001.json"]


def test_a_claimer_whose_file_was_taken_for_a_dead_ones_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link
    taken: list[Path] = []

    def link(source: Path, target: Path) -> None:
        if not taken:
            taken.append(source)
            Path(source).unlink()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with claim(tmp_path, never) as holder:
        assert holder.number == 1
    assert len(taken) == 1


def test_a_slow_claimer_cannot_slip_in_below_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at claim 1, then asleep until number 2 is pruned: linking 2 works then, and must not count."""
    for _ in range(8):
        with claim(tmp_path, never):
            pass
    holder = claim(tmp_path, never)
    real = run_lock._look
    looks = [(1, None)]
    monkeypatch.setattr(run_lock, "_look", lambda *a: looks.pop() if looks else real(*a))
    with pytest.raises(RunHeld, match=f"held by process {os.getpid()} "):
        claim(tmp_path, never)
    assert not (tmp_path / "holders" / "000002.json").exists()
    holder.release()


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with claim(tmp_path, never), pytest.raises(RunHeld):
        claim(tmp_path, never)
    with claim(tmp_path, never) as holder:
        assert holder.number == 2
        assert sorted(path.name for path in (tmp_path / "holders").iterdir()) == [
            "000001.json",
            "000002.json",
        ]


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: the server makes the link, the reply is lost, the retry says that the name exists."""
    real = os.link

    def made_but_denied(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", made_but_denied)
    with claim(tmp_path, never) as holder:
        assert holder.number == 1


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, not a folder"):
        claim(tmp_path / "file" / "run", never)


def test_needs_no_torch() -> None:
    code = "import sys, fcdm.runs.run_lock, fcdm.runs.records; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
