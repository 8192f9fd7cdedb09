"""Gathers what SLURM, the claims and the files say, in the order that makes the rows true.

First the ids of what was submitted, then the queue, then the files: so a job that ends in between has left its
evaluations by the time that they are looked for, and one that was submitted in between is in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fcdm.errors import UserError
from fcdm.jobstatus.classify import rows_of
from fcdm.jobstatus.last_words import is_trouble, last_words, why
from fcdm.jobstatus.rows import Attempt, StatusRow
from fcdm.jobstatus.run_files import FileReader, JobNotes, Key, RunFiles
from fcdm.runs.formats import Study
from fcdm.runs.processes import ask_slurm
from fcdm.runs.reader import list_studies, read_study, run_folders
from fcdm.slurm.client import JobInfo, Scheduler, Schedulers, Slurm
from fcdm.slurm.ledger import Task, list_tasks, ours
from fcdm.slurm.sbatch_script import SETUP_FAILED

Name = tuple[str | None, str]
"""(slurm.conf, job id)."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class Asked:
    """What the table is about: runs and what is asked of them."""

    runs: dict[str, list[Key]] = field(default_factory=dict)
    studies: tuple[Study, ...] = ()


@dataclass
class Overview:
    """One look at everything."""

    rows: list[StatusRow]
    asked: Asked
    problems: Mapping[str | None, str] = field(default_factory=dict)
    """slurm.conf -> why that SLURM could not be asked."""
    attempts: Mapping[str, list[Attempt]] = field(default_factory=dict)
    """Run -> everything that was submitted for it, oldest first; only for runs with something left to do."""

    @property
    def problem(self) -> str:
        """Why SLURM could not be asked, in one line; "" where it was."""
        return "; ".join(sorted(set(self.problems.values())))


def what_is_asked(runs_dir: Path, wanted: str | Sequence[str] | None = None) -> Asked:
    """The rows of one study, of some runs (by their folders' names), or of everything.

    Raises UserError for an unknown study, or where there are no runs.
    """
    if isinstance(wanted, str):
        studies = [read_study(runs_dir, wanted)]
    else:
        folders = [folder.name for folder in run_folders(runs_dir)]
        studies = list_studies(runs_dir)
    asked = Asked(studies=tuple(studies))
    for study in studies:
        for request in study.requests:
            keys = asked.runs.setdefault(request.run, [])
            keys += [(step, request.protocol_id) for step in request.budgets]
    for name, keys in asked.runs.items():
        asked.runs[name] = sorted(set(keys), key=lambda key: (key[1], key[0]))
    if not isinstance(wanted, str):
        # A folder that came from elsewhere is in no study: what is evaluated there is shown.
        reader = FileReader()
        for name in folders:
            if name not in asked.runs:
                asked.runs[name] = sorted(reader.evaluated(runs_dir / name)[0], key=lambda key: (key[1], key[0]))
        if wanted is not None:
            asked.runs = {name: asked.runs.get(name, []) for name in wanted}
    return asked


class Looker:
    """Takes overviews again and again; what cannot change any more is not asked twice."""

    def __init__(self, runs_dir: Path, schedulers: Schedulers = Slurm) -> None:
        self.runs_dir = runs_dir.absolute()
        self.schedulers = schedulers
        self.reader = FileReader()
        self._known: dict[str | None, Scheduler] = {}
        self._ended: dict[Name, JobInfo] = {}
        self._jobs: dict[str, bool | None] = {}

    def scheduler(self, conf: str | None) -> Scheduler:
        if conf not in self._known:
            self._known[conf] = self.schedulers(conf)
        return self._known[conf]

    def look(self, asked: Asked, now: float | None = None) -> Overview:
        """Every row, and what stands in the way of the truth."""
        self._jobs.clear()
        folders = {name: self.runs_dir / name for name in asked.runs}
        evaluated = dict(zip(folders, _together(self.reader.evaluated, folders.values()), strict=True))
        unfinished = {name for name, keys in asked.runs.items() if any(key not in evaluated[name][0] for key in keys)}
        of_run, queue, problems = self._submitted(unfinished)
        history = self._history([task for tasks in of_run.values() for task in tasks], queue, problems)

        by_job: dict[str, list[JobInfo]] = {}
        for (_, job), info in [*history.items(), *queue.items()]:
            by_job.setdefault(job, []).append(info)

        def alive(job: str) -> bool | None:
            """Whether a claim's SLURM job runs, from what is known already."""
            known = by_job.get(job)
            if known is None:  # a job of the user's own, on a machine where we submitted nothing
                return None if of_run else self._asked_slurm(job)
            return any(info.runs for info in known)

        def read(name: str) -> RunFiles:
            files = [task.job_file for task in of_run.get(name, [])]
            return self.reader.run(folders[name], asked.runs[name], files, alive)

        # Once more what is evaluated: a job that the queue shows as ended has evaluated before it ended.
        runs = dict(zip(folders, _together(read, folders), strict=True))
        moment = time.time() if now is None else now
        attempts = {
            name: [
                _attempt(task, runs[name].jobs.get(task.job_file), queue, history, task.conf not in problems)
                for task in tasks
            ]
            for name, tasks in of_run.items()
        }
        rows: list[StatusRow] = []
        for name, keys in asked.runs.items():
            rows += rows_of(keys, runs[name], attempts.get(name, []), moment)
        return Overview(rows, asked, problems, attempts)

    def _asked_slurm(self, job: str) -> bool | None:
        if job not in self._jobs:
            self._jobs[job] = ask_slurm(job)
        return self._jobs[job]

    def _submitted(
        self, unfinished: Collection[str]
    ) -> tuple[dict[str, list[Task]], dict[Name, JobInfo], dict[str | None, str]]:
        """These runs' tasks with their ids, the queues of their clusters, and why one could not be asked."""
        tasks = self._tasks_of(unfinished) if unfinished else []
        queue: dict[Name, JobInfo] = {}
        problems: dict[str | None, str] = {}
        for conf in {task.conf for task in tasks}:
            try:
                queue |= {(conf, job): info for job, info in self.scheduler(conf).queue().items()}
            except UserError as error:
                problems[conf] = str(error)
        ids = {(task.conf, job) for task in tasks for job in task.ids}
        if any(name not in ids and info.script.startswith(str(self.runs_dir)) for name, info in queue.items()):
            # A launcher that died, or is at work right now, has not written their ids down yet.
            tasks = self._tasks_of(unfinished, {f"{conf}:{job}": info for (conf, job), info in queue.items()})
        of_run: dict[str, list[Task]] = {}
        for task in tasks:
            of_run.setdefault(task.run.name, []).append(task)
        return of_run, queue, problems

    def _tasks_of(self, runs: Collection[str], queue: Mapping[str, JobInfo] | None = None) -> list[Task]:
        return [task for task in list_tasks(self.runs_dir, queue) if task.run.name in runs]

    def _history(
        self, tasks: Iterable[Task], queue: Mapping[Name, JobInfo], problems: dict[str | None, str]
    ) -> dict[Name, JobInfo]:
        """What accounting says of the jobs that are over, and of the earlier starts of those that are not."""
        history: dict[Name, JobInfo] = {}
        wanted: dict[str | None, list[str]] = {}
        for task in tasks:
            for job in task.ids[-1:] if task.conf not in problems else ():
                info = ours(queue.get((task.conf, job)), task)
                known = self._ended.get((task.conf, job))
                if known and (info is None or info.state == known.state):
                    history[task.conf, job] = known
                elif info is None or not info.active or info.restarts:
                    wanted.setdefault(task.conf, []).append(job)
        for conf, ids in wanted.items():
            try:
                answer = self.scheduler(conf).history(ids)
            except UserError as error:
                problems[conf] = str(error)
                continue
            for job, info in answer.items():
                history[conf, job] = info
                if not info.active:
                    self._ended[conf, job] = info
        return history


def _attempt(
    task: Task,
    notes: JobNotes | None,
    queue: Mapping[Name, JobInfo],
    history: Mapping[Name, JobInfo],
    asked: bool,
) -> Attempt:
    """A task with its job: the one that runs, else one that waits, else the last."""
    notes = notes or JobNotes(task.job_file)
    in_queue = {job: info for job in task.ids if (info := ours(queue.get((task.conf, job)), task))}
    active = tuple(job for job, info in in_queue.items() if info.active)
    job = task.ids[-1] if task.ids else None
    if active:
        job = max(active, key=lambda name: in_queue[name].runs)
    if job is None:
        return Attempt(task, notes, asked=asked)
    info = in_queue.get(job)
    past = ours(history.get((task.conf, job)), task)
    if info is None:
        info = past
    elif past is not None:
        info = replace(info, preempted=past.preempted, cancelled_by=past.cancelled_by)
    own = task.launch / f"{job}.log"
    words, log = ("", None) if active else _cause(task, own, notes.submitted)
    return Attempt(
        task,
        notes,
        job=job,
        info=info,
        queued=job in in_queue,
        active=active,
        asked=asked,
        started=own.exists(),
        last_words=words,
        log=str(log or task.log),
    )


def _cause(task: Task, own: Path, submitted: float) -> tuple[str, Path | None]:
    """What the last start of a job printed last, and where; what was printed before its submission is another's.

    `own`: SLURM's own log, where the batch script prints. It counts where it is newer and tells of trouble: a user's
    `teardown` prints there too.
    """
    # It may have started before the note of its submission was written, by another clock.
    said = {log: why(last_words(log, submitted - 60)) for log in (task.log, own)}
    if said[own] and not said[task.log].startswith(SETUP_FAILED):
        newer = said[task.log] and own.stat().st_mtime > task.log.stat().st_mtime
        if not said[task.log] or (newer and is_trouble(said[own])):
            return said[own], own
    return (said[task.log], task.log) if said[task.log] else ("", None)


def _together(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Each item's result, in order; many at a time, since on a network file system each waits for the server."""
    items = list(items)
    if len(items) < 32:
        return [work(item) for item in items]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(work, items))
