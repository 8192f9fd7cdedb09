"""Submit again what failed, and end what is on its way: both act on exactly the rows of an overview."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, read_json_if_whole
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE
from fcdm.jobstatus.collect import Asked, Looker, Overview
from fcdm.jobstatus.rows import FAILED, StatusRow
from fcdm.runs.lock_files import own_claim
from fcdm.runs.processes import process_alive
from fcdm.runs.run_lock import HolderInfo
from fcdm.slurm.job_credentials import retry_warning
from fcdm.slurm.ledger import LAUNCHES, Task, add_id


@dataclass
class Retried:
    """What --retry-failed did."""

    lines: list[str] = field(default_factory=list)
    local: list[StatusRow] = field(default_factory=list)
    """Failed outside of SLURM: their command continues them."""
    problem: str = ""
    """Why something is not submitted."""


def retry_failed(
    looker: Looker, asked: Asked, chosen: Callable[[Iterable[StatusRow]], list[StatusRow]] = list
) -> Retried:
    """Submit the failed rows' tasks again: same frozen config, code and resources, each task once.

    `chosen`: which of the rows of `asked` are meant (`Selection.rows`).
    Looks again under the launchers' lock, so that of two at once the second finds the jobs of the first in the queue.
    """
    done = Retried()
    with locked(looker.runs_dir / LAUNCHES / ".lock"):
        overview = looker.look(asked)
        failed = [row for row in chosen(overview.rows) if row.state == FAILED]
        done.local = [row for row in failed if not row.retry]
        done.problem = overview.problem
        # Not where the queue is not known: the job may be in it again.
        tasks = list(dict.fromkeys(task for row in failed for task in row.retry if task.conf not in overview.problems))
        try:
            _Retry(looker, overview, done).submit(tasks)
        except UserError as error:
            done.problem = str(error)
    return done


class _Retry:
    """Submits tasks; those of one run that would be in each other's way one after the other."""

    def __init__(self, looker: Looker, overview: Overview, done: Retried) -> None:
        self.looker, self.done = looker, done
        self.busy: dict[str, list[tuple[str, str]]] = {}
        """Run -> (work, job id) of all that wait or run, with those submitted here."""
        for run, attempts in overview.attempts.items():
            self.busy[run] = [(attempt.task.work, job) for attempt in attempts for job in attempt.active]

    def submit(self, tasks: Sequence[Task]) -> None:
        """One call of sbatch for each script and dependency. Raises UserError where SLURM refuses."""
        retried = {task.run.name for task in tasks if task.work != EVALUATE}
        left = sorted(tasks, key=lambda task: task.work == EVALUATE)  # an evaluation waits for its training
        while left:
            now: dict[tuple[str, Path, str], list[Task]] = {}
            later = []
            begun = set()
            for task in left:
                if task.run.name in begun:
                    later.append(task)
                    continue
                begun.add(task.run.name)
                group = (str(task.conf), task.script, self._after(task, task.run.name in retried))
                now.setdefault(group, []).append(task)
            for (_, _, after), group_tasks in now.items():
                self._sbatch(group_tasks, after)
            left = later

    def _after(self, task: Task, retried: bool) -> str:
        """What holds the same folder, and an evaluation's training where that is done again."""
        clash = {"train": ("all", "train"), EVALUATE: ("all", EVALUATE)}.get(task.work, ("all", "train", EVALUATE))
        if task.work == EVALUATE and retried:
            clash = ("all", "train", EVALUATE)
        return ":".join(job for work, job in self.busy.get(task.run.name, []) if work in clash)

    def _sbatch(self, tasks: list[Task], after: str) -> None:
        first = tasks[0]
        tasks = sorted(tasks, key=lambda task: task.index)
        parallel = _parallel(first)
        array = ",".join(str(task.index) for task in tasks) + (
            f"%{parallel}" if parallel and parallel < len(tasks) else ""
        )
        dependency = f"afterany:{after}" if after else ""
        if (warning := retry_warning(_launch(first).get("credentials") or [])) not in ("", *self.done.lines):
            self.done.lines.append(warning)
        name = self.looker.scheduler(first.conf).submit(first.script, array=array, dependency=dependency)
        for task in tasks:
            job = f"{name}_{task.index}"
            add_id(task.job_file, job)
            self.busy.setdefault(task.run.name, []).append((task.work, job))
            waits = f", after {after.replace(':', ' and ')}" if after else ""
            verb = {"all": "trains and evaluates", "train": "trains", EVALUATE: "evaluates"}.get(task.work, "does")
            self.done.lines.append(f"submitted {job}: {verb} {task.run.name}{waits}")


def _launch(task: Task) -> dict[str, Any]:
    return read_json_if_whole(task.launch / "launch.json")


def _parallel(task: Task) -> int | None:
    """So many tasks of the array may run at a time, as its launch asked."""
    found = _launch(task).get("parallel")
    return found if isinstance(found, int) and found > 0 else None


def on_their_way(rows: Sequence[StatusRow]) -> tuple[dict[tuple[str | None, str], str], dict[int, HolderInfo]]:
    """What --cancel ends: {(slurm.conf, job id): run}, and the processes of this machine by pid."""
    jobs = {name: row.run for row in rows for name in row.cancel}
    here = own_claim()
    processes = {}
    for row in rows:
        claim = row.local.claim if row.local and row.active else None
        if claim is not None and (claim.boot, claim.namespace) == (here.boot, here.namespace):
            processes[claim.pid] = row.local
    return jobs, {pid: holder for pid, holder in processes.items() if holder is not None}


def cancel(looker: Looker, rows: Sequence[StatusRow]) -> list[str]:
    """End them; returns what was done, line by line. Raises UserError where SLURM refuses."""
    jobs, processes = on_their_way(rows)
    lines = []
    for conf in {conf for conf, _ in jobs}:
        ids = [job for name, job in jobs if name == conf]
        looker.scheduler(conf).cancel(ids)
        lines += [f"cancelled job {job} of {jobs[conf, job]}" for job in ids]
    for pid, holder in processes.items():
        claim = holder.claim
        assert claim is not None
        # Looked at once more: the id may be another's by now.
        if not process_alive(pid, claim.start):
            continue
        launcher = _launcher(pid)
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError as error:
            lines.append(f"pid {pid} cannot be stopped: {error.strerror}")
            continue
        lines.append(f"pid {pid} saves and stops ({holder.path.parent.parent.name})")
        if launcher:
            lines.append(f"its launcher, pid {launcher}, goes on with its other jobs; kill {launcher} stops it too")
    elsewhere = {str(row.local): row for row in rows if row.active and row.local and not row.cancel}
    for text, row in elsewhere.items():
        if row.local and row.local.claim and row.local.claim.pid not in processes:
            lines.append(f"{row.run} is held by {text}: stop it there")
    return lines


def _launcher(pid: int) -> str:
    """Pid of the local launcher that started the process, "" without one."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((text[12:].decode() for text in variables if text.startswith(b"FCDM_PARENT=")), "")
