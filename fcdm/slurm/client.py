"""SLURM, as this project needs it: what runs, what became of a job, submit, cancel. One interface, two makers.

`Slurm` asks the real one through its commands; the unit tests put a small fake in its place. Job ids are texts as
SLURM writes them: `123_4` for one task of an array, `123` for a plain job.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fcdm.errors import UserError
from fcdm.runs.scontrol import fields_of
from fcdm.runs.slurm_states import RUNNING, WAITING, state_name


@dataclass(frozen=True)
class JobInfo:
    """One job (one task of an array) as SLURM sees it."""

    id: str
    state: str
    """One of those of `fcdm.runs.slurm_states`, or of a later SLURM."""
    reason: str = ""
    """Why it waits, in SLURM's word; `None` or empty otherwise."""
    cancelled_by: str = ""
    """The user who ended it, where that is known."""
    script: str = ""
    """Absolute path of its batch script; empty where SLURM no longer says."""
    nodes: str = ""
    restarts: int = 0
    preempted: int = 0
    """How often it gave way to another job, as accounting has it."""
    exit_code: str = ""
    """`code:signal`, once it has ended."""
    limit_minutes: float | None = None
    plain_id: str = ""
    """Of a task of an array too: some commands take no `123_4`."""
    dependency: str = ""
    """What it waits for, in SLURM's words: `afterok:12(failed)`."""

    @property
    def runs(self) -> bool:
        return self.state in RUNNING

    @property
    def active(self) -> bool:
        """It is on its way: it runs, or will."""
        return self.state in RUNNING | WAITING


@dataclass(frozen=True)
class Partition:
    name: str
    default: bool
    max_minutes: float
    """Longest time limit; inf: none."""
    hosts: tuple[str, ...] = ()
    """Names of the machines that its nodes are."""


@dataclass(frozen=True)
class Cluster:
    """What may be asked of this SLURM."""

    name: str
    max_array_size: int
    """Array indices go from 0 to this minus one."""
    partitions: dict[str, Partition] = field(default_factory=dict)


class Refused(UserError):
    """SLURM did not take a job; the text is its reason."""

    @property
    def is_sure(self) -> bool:
        """False where sbatch got no answer in time: SLURM may have taken it all the same."""
        return "timed out" not in str(self)


MAY_BE = "may be cancelled: "
"""Begins the reason of `Scheduler.cancel` where its answer is lost."""


class _TimedOut(UserError):
    """No answer; SLURM may have done it all the same."""


class Scheduler(Protocol):
    """What the launcher and `fcdm.status` ask of SLURM."""

    def cluster(self) -> Cluster:
        """Raises UserError where there is no SLURM or it does not answer."""

    def queue(self) -> dict[str, JobInfo]:
        """This user's jobs that wait or run, and those that ended minutes ago, by id; arrays task by task."""

    def history(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        """What accounting knows of these jobs; those that it does not know are left out."""

    def recall(self, since: float) -> dict[str, JobInfo]:
        """What accounting knows of this user's jobs since then (Unix time), by id: for one whose id nobody noted."""

    def submit(self, script: Path, *, array: str = "", dependency: str = "") -> str:
        """Submit a batch script; returns its id (of the whole array).

        `array` (`0-3,7%2`; empty: as the script says) and `dependency` (`afterany:12_3`) as sbatch takes them. Raises
        Refused.
        """

    def test(self, text: str) -> None:
        """Ask whether a batch script of this text would be taken (as one task), and submit nothing. Raises Refused."""

    def cancel(self, ids: Sequence[str]) -> dict[str, str]:
        """End these jobs, and forget those that wait; one that has ended is none to end.

        Returns {id: why} of those that SLURM does not end, or may not have ended (MAY_BE). Raises UserError where
        nothing is ended, for it does not answer.
        """


Schedulers = Callable[[str | None], Scheduler]
"""slurm.conf (None: the machine's own) -> its SLURM."""


class Slurm:
    """The real one. `conf`: its slurm.conf, where that is not the machine's own."""

    def __init__(self, conf: str | None = None) -> None:
        self.environment = {**os.environ, **({"SLURM_CONF": conf} if conf else {})}
        # Else a colour or a format that the user likes would come back in what we read.
        for name in ("SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SACCT_FORMAT", "SINFO_FORMAT", "SQUEUE_STATES", "SQUEUE_SORT"):
            self.environment.pop(name, None)
        # Inside a job, sbatch would take that job's own settings over for the new one.
        for name in list(self.environment):
            if name.startswith(("SBATCH_", "SLURM_")) and name != "SLURM_CONF":
                del self.environment[name]

    def cluster(self) -> Cluster:
        return self._cluster  # three questions to SLURM; it does not change while a command submits

    @cached_property
    def _cluster(self) -> Cluster:
        config = self._run("scontrol", "show", "config")
        hosts: dict[str, str] = {}
        for line in self._run("scontrol", "-o", "show", "nodes").splitlines():
            words = fields_of(line)
            if "NodeName" in words:
                hosts[words["NodeName"]] = words.get("NodeHostName", words["NodeName"])
        partitions: dict[str, Partition] = {}
        for line in self._run("sinfo", "-a", "-h", "-N", "-o", "%P|%l|%N").splitlines():
            title, limit, node = line.split("|")
            name = title.rstrip("*")
            before = partitions[name].hosts if name in partitions else ()
            partitions[name] = Partition(name, title.endswith("*"), minutes(limit), (*before, hosts.get(node, node)))
        size = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.M)
        named = re.search(r"^ClusterName\s*=\s*(\S+)", config, re.M)
        return Cluster(named[1] if named else "", int(size[1]) if size else 1001, partitions)

    def queue(self) -> dict[str, JobInfo]:
        fields = ["JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "TimeLimit", "JobID"]
        fields += ["Dependency", "Command"]
        # By width, since a reason or a path may hold any separator. Longer than any path, for it would be cut.
        layout = ",".join(f"{name}:{4096 if name == 'Command' else 60}" for name in fields)
        jobs = {}
        for line in self._run("squeue", "-h", "-r", "-t", "all", "--me", "-O", layout).splitlines():
            columns = [line[60 * at : 60 * (at + 1)].strip() for at in range(len(fields) - 1)]
            job, state, reason, nodes, restarts, code, limit, plain, dependency = columns
            script = line[60 * (len(fields) - 1) :].strip()
            jobs[job] = JobInfo(
                id=job,
                state=state,
                reason=reason,
                script="" if script == "(null)" else script,
                nodes=nodes,
                restarts=int(restarts) if restarts.isdigit() else 0,
                exit_code=_exit_code(code),
                limit_minutes=minutes(limit),
                plain_id=plain,
                dependency=dependency,
            )
        return jobs

    def history(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        jobs: dict[str, JobInfo] = {}
        wanted = set(ids)
        for some in _chunks(sorted(wanted), 500):
            jobs |= self._accounts("-j", ",".join(some))
        # 15_3 has a plain id too: it may be another that was asked for.
        return {job: info for job, info in jobs.items() if job in wanted}

    def recall(self, since: float) -> dict[str, JobInfo]:
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
        return self._accounts("-S", start, "-u", str(os.getuid()))

    def _accounts(self, *which: str) -> dict[str, JobInfo]:
        """What sacct says of these jobs, over all their starts. Without accounting it fails: then nothing is known."""
        jobs: dict[str, JobInfo] = {}
        layout = "JobID,State,ExitCode,NodeList,TimelimitRaw,SubmitLine"
        # -D: each start of a job, oldest first.
        for line in self._run("sacct", "-n", "-X", "-P", "-D", *which, "-o", layout, refuse=False).splitlines():
            columns = line.split("|", 5)
            if len(columns) < 6:
                continue
            name, state, code, nodes, limit, command = columns
            script = command[command.index(" /") + 1 :] if " /" in command else ""
            for job in tasks_of(name):
                before = jobs.get(job)
                if before and before.script != script:  # ids are used again, one day
                    before = None
                jobs[job] = JobInfo(
                    id=job,
                    state=state_name(state),
                    cancelled_by=_user_name(state.partition(" by ")[2]),
                    script=script,
                    nodes=nodes,
                    restarts=before.restarts + 1 if before else 0,
                    preempted=(before.preempted if before else 0) + (state_name(state) == "PREEMPTED"),
                    exit_code=code,
                    limit_minutes=float(limit) if limit.isdigit() else None,
                )
        return jobs

    def submit(self, script: Path, *, array: str = "", dependency: str = "") -> str:
        words = [f"--array={array}"] if array else []
        words += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        done = self._call("sbatch", "--parsable", *words, str(script))
        _refuse(done)
        return done.stdout.strip().split(";")[0]

    def test(self, text: str) -> None:
        _refuse(self._call("sbatch", "--test-only", "--array=0", stdin=text))

    def cancel(self, ids: Sequence[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        asked: list[str] = []
        for some in _chunks(list(ids), 200):
            asked += some
            try:
                refused |= self._cancelled(some)
            except _TimedOut as error:
                refused |= dict.fromkeys(some, f"{MAY_BE}{error}") | dict.fromkeys(ids[len(asked) :], str(error))
                break  # each would wait as long
            except UserError as error:
                if len(asked) == len(some):
                    raise
                refused |= dict.fromkeys([*some, *ids[len(asked) :]], str(error))
                break
        return refused

    def _cancelled(self, ids: Sequence[str]) -> dict[str, str]:
        """One call of scancel: {id: why} of those that it could not end. Raises UserError where it says nothing."""
        done = self._call("scancel", *ids)
        if done.returncode == 0:
            return {}
        # It goes through all of them, and has a line for each that it could not end.
        said = dict(re.findall(r"^scancel: error: Kill job error on job id (\S+): (.+)$", done.stderr, re.M))
        if not said:
            error = self._silent("scancel", done)
            raise _TimedOut(str(error)) if "timed out" in done.stderr else error
        return {job: why.strip() for job, why in said.items() if "already completing" not in why}

    def _run(self, *words: str, refuse: bool = True) -> str:
        done = self._call(*words)
        if done.returncode != 0 and refuse:
            raise self._silent(words[0], done)
        return done.stdout if done.returncode == 0 else ""

    @staticmethod
    def _silent(program: str, done: subprocess.CompletedProcess[str]) -> UserError:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        return UserError(f"SLURM does not answer ({program}: {said}): is its controller up, and SLURM_CONF right?")

    def _call(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        if shutil.which(words[0], path=self.environment.get("PATH")) is None:
            raise UserError(
                f"there is no SLURM on this machine (no {words[0]}): run this on a cluster's login node, try "
                "hydra/launcher=local, or start a SLURM of your own with python tools/devcluster up"
            )
        try:
            return subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=120, check=False, env=self.environment
            )
        except subprocess.TimeoutExpired:
            raise _TimedOut(f"SLURM does not answer ({words[0]} took more than 120 s): try again later") from None


def _refuse(sbatch: subprocess.CompletedProcess[str]) -> None:
    if sbatch.returncode:
        lines = [line.removeprefix("sbatch: error: ").strip() for line in sbatch.stderr.splitlines()]
        said = [line for line in lines if line and not line.startswith("sbatch: Job")]
        raise Refused("; ".join(said) or f"sbatch ended with {sbatch.returncode}")


def tasks_of(name: str) -> list[str]:
    """`12_[1,3-4%2]`, as tasks that never started are listed, -> 12_1, 12_3, 12_4; any other id is itself."""
    array, _, indices = name.partition("_[")
    if not indices:
        return [name]
    ranges = (part.partition("-") for part in indices.rstrip("]").partition("%")[0].split(","))
    return [
        f"{array}_{index}"
        for first, _, last in ranges
        if first.isdigit() and (last or first).isdigit()
        for index in range(int(first), int(last or first) + 1)
    ]


def minutes(text: str) -> float:
    """SLURM's `3-12:00:00`, `1:30:00`, `10:00`, `UNLIMITED` as minutes (inf: no limit)."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return float("inf")
    if days:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = (*map(int, parts), 0, 0)[:3]
    else:  # [hours:]minutes:seconds, or minutes alone
        numbers = [int(part) for part in parts]
        if len(numbers) == 1:
            return float(numbers[0])
        hours, mins, seconds = (0, *numbers)[-3:]
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def _exit_code(status: str) -> str:
    """squeue's wait status as sacct's `code:signal`: 35072 -> `137:0`."""
    return f"{int(status) >> 8}:{int(status) & 127}" if status.isdigit() else ""


def _user_name(uid: str) -> str:
    """`1000` -> `alice`; names stay."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (ValueError, KeyError):
        return uid


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[at : at + size] for at in range(0, len(items), size))
