"""Submit again what failed, and end what is on its way: both act on exactly the rows of an overview."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, read_json_if_whole
from fcdm.errors import Unsure, UserError
from fcdm.jobs.job import EVALUATE
from fcdm.jobstatus.collect import Asked, Looker
from fcdm.jobstatus.rows import FAILED, Attempt, StatusRow
from fcdm.runs.branches import can_begin, find_parent
from fcdm.runs.folder import Run, frozen_science
from fcdm.runs.lock_files import own_claim
from fcdm.runs.processes import process_alive
from fcdm.runs.run_lock import HolderInfo
from fcdm.runs.run_paths import run_facts
from fcdm.slurm.client import MAY_BE, Refused
from fcdm.slurm.job_credentials import retry_warning
from fcdm.slurm.ledger import LAUNCHES, Task, add_id, with_queued
from fcdm.slurm.sbatch_script import dependency_of


@dataclass
class Done:
    """What --retry-failed, --replace or --cancel did."""

    lines: list[str] = field(default_factory=list)
    problem: str = ""
    """What of it could not be done or be told, and why; "" where all was."""
    elsewhere: list[StatusRow] = field(default_factory=list)
    """Failed, and not for SLURM to do again: their command continues them."""


def retry_failed(looker: Looker, asked: Asked, chosen: Callable[[Iterable[StatusRow]], list[StatusRow]] = list) -> Done:
    """Submit the failed rows' tasks again: same frozen config, code and resources, each task once.

    `chosen`: which of the rows of `asked` are meant (`Selection.rows`).
    Looks again under the launchers' lock, so that of two at once the second finds the jobs of the first in the queue.
    """
    done = Done()
    with locked(looker.runs_dir / LAUNCHES / ".lock"):
        overview = looker.look(asked, recall=True)
        failed = [row for row in chosen(overview.rows) if row.state == FAILED]
        done.elsewhere = [row for row in failed if not row.retry]
        # Not where the queue is not known: the job may be in it again.
        tasks = list(dict.fromkeys(task for row in failed for task in row.retry if task.conf not in overview.problems))
        try:
            Submitter(looker, overview.attempts, done).submit(tasks)
        except Unsure as error:
            done.problem = str(error)
        except UserError as error:
            done.problem = f"nothing {'else ' if done.lines else ''}is submitted: {error}"
        if overview.problem and not done.problem:
            done.problem = f"nothing {'else ' if done.lines else ''}is submitted: {overview.problem}"
    return done


class Submitter:
    """Submits tasks; those of one run that would be in each other's way one after the other."""

    def __init__(
        self, looker: Looker, attempts: Mapping[str, Sequence[Attempt]], done: Done, *, together: bool = False
    ) -> None:
        """`attempts`: of everything that waits or runs. `together`: an array stays one, and waits for all its runs."""
        self.looker, self.done, self.together = looker, done, together
        self.known = {job for some in attempts.values() for attempt in some for job in attempt.task.ids}
        self.busy: dict[str, list[tuple[str, str]]] = {}
        """Run -> (work, job id) of all that wait or run, with those submitted here."""
        self._note_busy(attempts)
        self.parents: dict[str, str] = {}
        """Branch -> the run that is to train what it begins with."""

    def _note_busy(self, attempts: Mapping[str, Sequence[Attempt]]) -> None:
        for run, some in attempts.items():
            self.busy[run] = [(attempt.task.work, job) for attempt in some for job in attempt.active]

    def submit(self, tasks: Sequence[Task]) -> None:
        """One call of sbatch for each script and dependency. Raises UserError where SLURM refuses."""
        again = {task.run.name for task in tasks if task.work != EVALUATE}
        self.parents = {task.run.name: parent for task in tasks if (parent := _awaited(task))}
        if unseen := set(self.parents.values()) - self.busy.keys():  # nobody acts on them, and they may be in the queue
            self._note_busy(self.looker.look(Asked(runs={name: [] for name in unseen})).attempts)
        # An evaluation waits for its training, and a branch for what it begins with.
        left = sorted(tasks, key=lambda task: (task.work == EVALUATE, task.run.name in self.parents))
        while left:
            now: dict[tuple[str, Path, str], list[Task]] = {}
            later = []
            begun = set()
            for task in left:
                if task.run.name in begun or self.parents.get(task.run.name) in begun:
                    later.append(task)
                    continue
                begun.add(task.run.name)
                after = self._after(task, task.run.name in again)
                joined = self.together and task.work != EVALUATE
                now.setdefault((str(task.conf), task.script, "" if joined else after), []).append(task)
            for group in now.values():
                self._sbatch({task: self._after(task, task.run.name in again) for task in group})
            left = later

    def _after(self, task: Task, again: bool) -> str:
        """What holds the same folder, an evaluation's training where that is done again, and what trains the run that a
        branch is to begin with."""
        clash = {"train": ("all", "train"), EVALUATE: ("all", EVALUATE)}.get(task.work, ("all", "train", EVALUATE))
        if task.work == EVALUATE and again:
            clash = ("all", "train", EVALUATE)
        before = [job for work, job in self.busy.get(task.run.name, []) if work in clash]
        if task.work != EVALUATE:
            parent = self.parents.get(task.run.name, "")
            before += [job for work, job in self.busy.get(parent, []) if work != EVALUATE]
        return ":".join(before)

    def _sbatch(self, afters: dict[Task, str]) -> None:
        """One array of these tasks, each with what it is to wait for."""
        tasks = sorted(afters, key=lambda task: task.index)
        first = tasks[0]
        after = ":".join(dict.fromkeys(job for one in afters.values() for job in one.split(":") if job))
        parallel = _parallel(first)
        array = ",".join(str(task.index) for task in tasks) + (
            f"%{parallel}" if parallel and parallel < len(tasks) else ""
        )
        if (warning := retry_warning(_launch(first).get("credentials") or [])) not in ("", *self.done.lines):
            self.done.lines.append(warning)
        name = self._submitted(tasks, array, dependency_of(first.script, after))
        for task in tasks:
            job = f"{name}_{task.index}"
            self.note(task, job)
            self.busy.setdefault(task.run.name, []).append((task.work, job))
            waits = f", after {afters[task].replace(':', ' and ')}" if afters[task] else ""
            verb = {"all": "trains and evaluates", "train": "trains", EVALUATE: "evaluates"}.get(task.work, "does")
            self.done.lines.append(f"submitted {job}: {verb} {task.run.name}{waits}")

    def note(self, task: Task, job: str) -> None:
        """Write the job's id down. Whatever happens here, it is submitted, and the queue has its script's name."""
        try:
            add_id(task.job_file, job)
        except (OSError, UserError) as error:
            text = f"warning: the jobs' ids cannot be noted, so the next look finds them in the queue: {error}"
            if not any(line.startswith(text[:40]) for line in self.done.lines):
                self.done.lines.append(text)

    def _submitted(self, tasks: list[Task], array: str, dependency: str) -> str:
        """The array's id. Raises UserError where it is not submitted, and says so where that cannot be told."""
        first = tasks[0]
        scheduler = self.looker.scheduler(first.conf)
        try:
            return scheduler.submit(first.script, array=array, dependency=dependency)
        except UserError as error:
            # An sbatch that got no answer may have submitted all the same.
            try:
                queue = scheduler.queue()
            except UserError:
                if isinstance(error, Refused) and error.is_sure:
                    raise error from None
                raise Unsure(
                    f"{error}; whether SLURM has the job of {first.run.name} now, python -m fcdm.status tells"
                ) from None
            for task in with_queued([replace(task, ids=()) for task in tasks], queue):
                for job in task.ids:
                    if job not in self.known and queue[job].active:
                        return job.rpartition("_")[0]
            raise


def _awaited(task: Task) -> str | None:
    """The run that is still to train what the task's branch begins with; None: it is no branch, or can begin."""
    try:
        if task.work == EVALUATE or "branch" not in run_facts(task.run):
            return None
        science = frozen_science(task.run)
        parent = find_parent(task.run.parent, science)
        if parent is None or can_begin(Run(task.run, ""), science, parent):
            return None
        return parent.name
    except UserError:  # its job meets the same, and says so
        return None


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


def end_jobs(looker: Looker, jobs: Mapping[tuple[str | None, str], str]) -> Done:
    """End these SLURM jobs: {(slurm.conf, job id): run}."""
    done, kept = Done(), []
    for conf in dict.fromkeys(conf for conf, _ in jobs):
        ids = [job for name, job in jobs if name == conf]
        try:
            refused = looker.scheduler(conf).cancel(ids)
        except UserError as error:
            refused = dict.fromkeys(ids, str(error))
        done.lines += [f"cancelled job {job} of {jobs[conf, job]}" for job in ids if job not in refused]
        kept += _why_not(refused)
    done.problem = "; ".join(kept)
    return done


def cancel(looker: Looker, rows: Sequence[StatusRow]) -> Done:
    """End what waits or runs for these rows; what cannot be ended is the problem."""
    jobs, processes = on_their_way(rows)
    done = end_jobs(looker, jobs)
    kept = [done.problem] if done.problem else []
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
            kept.append(f"pid {pid} ({holder.path.parent.parent.name}) cannot be stopped: {error.strerror}")
            continue
        done.lines.append(f"pid {pid} saves and stops ({holder.path.parent.parent.name})")
        if launcher:
            done.lines.append(
                f"its launcher, pid {launcher}, goes on with its other jobs; kill {launcher} stops it too"
            )
    held = {row.run: row.local for row in rows if row.active and row.local and not row.cancel}
    for run, holder in held.items():
        if not (holder.claim and holder.claim.pid in processes):
            kept.append(f"{run} is held by {holder}: stop it there")
    done.problem = "; ".join(kept)
    return done


def _why_not(refused: Mapping[str, str]) -> list[str]:
    """One line for each reason that SLURM gave, with its jobs."""
    reasons: dict[str, list[str]] = {}
    for job, why in refused.items():
        reasons.setdefault(why, []).append(job)
    return [
        f"{'may be' if why.startswith(MAY_BE) else 'not'} cancelled: {', '.join(jobs)} ({why.removeprefix(MAY_BE)})"
        for why, jobs in reasons.items()
    ]


def _launcher(pid: int) -> str:
    """Pid of the local launcher that started the process, "" without one."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((text[12:].decode() for text in variables if text.startswith(b"FCDM_PARENT=")), "")
