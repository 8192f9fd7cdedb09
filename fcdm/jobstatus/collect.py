"""Gathers what SLURM, the claims and the files say, in the order that makes the rows true.

First the ids of what was submitted, then the queue, then the files: so a job that ends in between has left its
evaluations by the time that they are looked for, and one that was submitted in between is in the queue.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fcdm.errors import UserError
from fcdm.features.distance_names import space_of
from fcdm.jobs.job import BENCHMARK
from fcdm.jobstatus.classify import rows_of
from fcdm.jobstatus.foretold_rows import with_forecasts
from fcdm.jobstatus.last_words import is_trouble, last_words, why
from fcdm.jobstatus.rows import Attempt, StatusRow
from fcdm.jobstatus.run_files import FileReader, JobNotes, Key, RunFiles, job_notes
from fcdm.jobstatus.unasked import with_unasked
from fcdm.runs.formats import Study
from fcdm.runs.processes import ask_slurm
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import list_studies, read_study, run_folders
from fcdm.slurm.client import JobInfo, Scheduler, Schedulers, Slurm
from fcdm.slurm.ledger import LAUNCHES, Task, add_id, list_tasks, ours, read_ids, with_queued
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
    named: bool = True
    """The studies were chosen by name; else they are all that there are."""
    narrowed: bool = False
    """Of them, some runs or budgets only."""
    everything: bool = False
    """`runs` has all that any study asks of them; what waits or runs besides is asked for by none, and shown too."""


@dataclass
class Overview:
    """One look at everything."""

    rows: list[StatusRow]
    asked: Asked
    problems: Mapping[str | None, str] = field(default_factory=dict)
    """slurm.conf -> why that SLURM could not be asked."""
    attempts: Mapping[str, list[Attempt]] = field(default_factory=dict)
    """Run -> everything that was submitted for it, oldest first; only for runs with something left to do."""
    unseen: Mapping[str | None, str] = field(default_factory=dict)
    """As `problems`, of SLURMs that were given nothing of what is still to be done; something may wait there yet."""
    ledger_problem: str = ""
    """Why the ledger of forecasts cannot be read; "" where it can."""

    @property
    def problem(self) -> str:
        """Why SLURM could not be asked, in one line; "" where it was."""
        return "; ".join(sorted(set(self.problems.values())))

    @property
    def blind(self) -> str:
        """Why there may be jobs that nobody can see now; "" where all were seen."""
        return "; ".join(sorted({*self.problems.values(), *self.unseen.values()}))


def what_is_asked(runs_dir: Path, wanted: str | Sequence[str] | None = None) -> Asked:
    """The rows of one study, of some runs (by their folders' names), or of everything.

    Raises UserError for an unknown study, or where there are no runs.
    """
    if isinstance(wanted, str):
        studies = [read_study(runs_dir, wanted)]
    else:
        folders = [folder.name for folder in run_folders(runs_dir)]
        studies = list_studies(runs_dir)
    named = isinstance(wanted, str)
    asked = Asked(studies=tuple(studies), named=named, everything=wanted is None)
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
        for task in list_tasks(runs_dir):
            if task.work != BENCHMARK and not task.job_file.exists():  # its folder was deleted, maybe while it waits
                asked.runs.setdefault(task.run.name, [])
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

    def look(self, asked: Asked, now: float | None = None, *, recall: bool = False) -> Overview:
        """Every row, and what stands in the way of the truth.

        `recall`: accounting is searched for jobs whose ids nobody could note and that have left the queue.
        """
        self._jobs.clear()
        folders = {name: self.runs_dir / name for name in asked.runs}
        done = _together(lambda name: self.reader.is_done(folders[name], asked.runs[name]), folders)
        unfinished = {name for name, finished in zip(folders, done, strict=True) if not finished}
        others = {name for name, keys in asked.runs.items() if asked.everything or not keys} - unfinished
        of_run, queue, problems, unseen = self._submitted(unfinished, others)
        if recall:
            of_run = self._recalled(of_run, queue, problems)
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
            name: [_attempt(task, _notes_of(task, runs), queue, history, task.conf not in problems) for task in tasks]
            for name, tasks in of_run.items()
        }
        rows: list[StatusRow] = []
        for name, keys in asked.runs.items():
            rows += rows_of(keys, runs[name], attempts.get(name, []), moment)
        rows = with_unasked(_told_apart(rows, asked.studies), attempts, asked.everything)
        rows, broken = with_forecasts(rows, self.runs_dir)
        return Overview(rows, asked, problems, attempts, unseen, broken)

    def _asked_slurm(self, job: str) -> bool | None:
        if job not in self._jobs:
            self._jobs[job] = ask_slurm(job)
        return self._jobs[job]

    def _submitted(
        self, unfinished: Collection[str], others: Collection[str]
    ) -> tuple[dict[str, list[Task]], dict[Name, JobInfo], dict[str | None, str], dict[str | None, str]]:
        """These runs' tasks with their ids, the queues of their clusters, and why one could not be asked.

        `others`: runs of which only what waits or runs is wanted; a cluster of theirs alone may have been taken down.
        """
        tasks = list_tasks(self.runs_dir) if unfinished or others else []
        needed = {task.conf for task in tasks if task.run.name in unfinished}
        beside = {task.conf for task in tasks if task.run.name in others} - needed
        queue: dict[Name, JobInfo] = {}
        problems: dict[str | None, str] = {}
        unseen: dict[str | None, str] = {}
        for conf in needed | {conf for conf in beside if conf is None or Path(conf).exists()}:
            try:
                queue |= {(conf, job): info for job, info in self.scheduler(conf).queue().items()}
            except UserError as error:
                (problems if conf in needed else unseen)[conf] = str(error)
        ids = {(task.conf, job) for task in tasks for job in task.ids}
        if any(name not in ids and self._is_launched(info) for name, info in queue.items()):
            # A launcher that died, or is at work right now, has not written their ids down yet.
            tasks = list_tasks(self.runs_dir, {f"{conf}:{job}": info for (conf, job), info in queue.items()})
        of_run: dict[str, list[Task]] = {}
        for task in tasks:
            if task.run.name in unfinished or (task.run.name in others and _in_queue(task, queue)):
                of_run.setdefault(task.run.name, []).append(task)
        return of_run, queue, problems, unseen

    def _is_launched(self, info: JobInfo) -> bool:
        launch = Path(info.script).parent
        return launch.parent.name == LAUNCHES and (self.runs_dir / LAUNCHES / launch.name).is_dir()

    def _recalled(
        self, of_run: Mapping[str, list[Task]], queue: Mapping[Name, JobInfo], problems: Mapping[str | None, str]
    ) -> dict[str, list[Task]]:
        """The tasks with ids that only accounting knows, which are noted, so that nobody has to search again."""
        known = [task for tasks in of_run.values() for task in tasks if task.conf not in problems]
        resting: dict[str | None, list[Task]] = {}
        for task in known:
            if not _in_queue(task, queue):
                resting.setdefault(task.conf, []).append(task)
        found: dict[tuple[Path, int], Task] = {}
        for conf, tasks in resting.items():
            try:
                past = self.scheduler(conf).recall(min(task.submitted for task in tasks))
            except UserError:
                continue  # `_history` meets the same, and says so
            for task in with_queued(tasks, past):
                found[task.script, task.index] = task
                if task.ids and task.job_file.exists() and task.ids[-1] not in read_ids(task.job_file):
                    with contextlib.suppress(OSError, UserError):
                        add_id(task.job_file, task.ids[-1])
        return {name: [found.get((task.script, task.index), task) for task in tasks] for name, tasks in of_run.items()}

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


def _told_apart(rows: Sequence[StatusRow], studies: Sequence[Study]) -> list[StatusRow]:
    """The rows, those of runs that are evaluated in several spaces of features, or by several weights, with theirs."""
    spaces = {protocol: space_of(features) for study in studies for protocol, features in study.spaces.items()}
    weights = {protocol: name for study in studies for protocol, name in study.weights.items()}
    told: list[tuple[str, str]] = [(spaces.get(row.protocol, ""), weights.get(row.protocol, "")) for row in rows]
    of_run: dict[str, list[tuple[str, str]]] = {}
    for row, names in zip(rows, told, strict=True):
        if row.protocol != TRAINED_ONLY:
            of_run.setdefault(row.run, []).append(names)
    several = {run: [len({*names}) > 1 for names in zip(*some, strict=True)] for run, some in of_run.items()}
    return [
        replace(row, space=space if in_spaces else "", weights=name if by_weights else "")
        for row, (space, name) in zip(rows, told, strict=True)
        for in_spaces, by_weights in [several.get(row.run, [False, False])]
    ]


def _in_queue(task: Task, queue: Mapping[Name, JobInfo]) -> bool:
    """Whether a job of it waits or runs."""
    known = (ours(queue.get((task.conf, job)), task) for job in task.ids)
    return any(info is not None and info.active for info in known)


def _notes_of(task: Task, runs: Mapping[str, RunFiles]) -> JobNotes:
    """What stands beside its job file; read here for a run that needs no look otherwise."""
    notes = runs[task.run.name].jobs.get(task.job_file) if task.run.name in runs else None
    return notes or job_notes(task.job_file)


def _attempt(
    task: Task,
    notes: JobNotes,
    queue: Mapping[Name, JobInfo],
    history: Mapping[Name, JobInfo],
    asked: bool,
) -> Attempt:
    """A task with its job: the one that runs, else one that waits, else the last."""
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
