"""`hydra/launcher=submitit_slurm`: submit and leave.

Every job is composed, checked and frozen before anything is submitted; what is done or on its way is left out; the
rest goes out as arrays, one for each set of resources. Nothing waits, so closing the laptop loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcdm.config.check import budgets
from fcdm.errors import UserError
from fcdm.launch.jobs import Job
from fcdm.launch.slurm.batch_script import Request, request_of, script
from fcdm.launch.slurm.cluster_checks import check_folder, check_requests
from fcdm.launch.slurm.options import SlurmOptions
from fcdm.launch.slurm.scheduler import JobInfo, Refused, Scheduler
from fcdm.launch.slurm.snapshot import take_snapshot
from fcdm.launch.slurm.submissions import LAUNCHES, Task, add_id, list_tasks, new_launch, write_launch
from fcdm.runs.folder import Run
from fcdm.runs.holder import current_holder
from fcdm.runs.locks import locked
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.revision import code_revision


@dataclass
class Row:
    """What became of one job of the command."""

    job: Job
    request: Request | None
    state: str
    """`submitted`, `done`, `in the queue`, `held`, `failed`."""
    text: str = ""
    """Why it was left out."""
    ids: list[str] = field(default_factory=list)


@dataclass
class _Planned:
    """One task to submit: a job with its work cut out."""

    row: Row
    run: Run
    job: Job
    request: Request
    after: str = ""
    """Job id that it waits for."""
    follows: _Planned | None = None
    """The training that it judges, submitted by the same command."""
    file: Path | None = None
    id: str = ""


@dataclass
class _Array:
    """Tasks that ask for the same and wait for the same: one batch script, one call of sbatch."""

    script: Path
    tasks: list[_Planned]


def check(jobs: list[Job], options: SlurmOptions, scheduler: Scheduler) -> None:
    """Refuse what the cluster cannot do, before anything is written. Raises UserError."""
    cluster = scheduler.cluster()
    for job in jobs:
        requests = [request_of(job.config.resources, options)]
        if job.config.evaluation.where == "job":
            requests.append(request_of(job.config.evaluation.resources, options, judging=True))
        check_requests(job.name, requests, options, cluster)
    if options.check_folder:
        check_folder(Path(jobs[0].config.runs_dir), options, cluster)


def submit(jobs: list[Job], options: SlurmOptions, scheduler: Scheduler, command: Sequence[str]) -> list[Row]:
    """Submit what is neither done nor on its way; one row for each job, in the given order.

    All of it or, where SLURM refuses a part, nothing. Raises UserError.
    """
    runs_dir = Path(jobs[0].config.runs_dir).absolute()
    jobs = [_from_anywhere(job, runs_dir) for job in jobs]
    cluster = scheduler.cluster()
    code = take_snapshot(runs_dir)
    # One launcher at a time: two of the same sweep would both find a run neither done nor queued.
    with locked(runs_dir / LAUNCHES / ".lock"):
        queue = scheduler.queue()
        on_their_way = _active(list_tasks(runs_dir, queue), queue)
        rows: list[Row] = []
        planned: list[_Planned] = []
        for job in jobs:
            row, tasks = _plan(job, options, on_their_way.get(job.folder_name, []))
            rows.append(row)
            planned += tasks
        if planned:
            launch = new_launch(runs_dir)
            try:
                arrays = _write(launch, planned, options, code, cluster.max_array_size, runs_dir, command)
                _submit(arrays, options.array_parallelism, scheduler)
            except (UserError, OSError):
                _take_back(launch, planned)
                raise
            for task in planned:
                assert task.file is not None
                with contextlib.suppress(OSError, UserError):  # the job does it too, when it starts
                    add_id(task.file, task.id)
    return rows


def _from_anywhere(job: Job, runs_dir: Path) -> Job:
    """The job with absolute paths: it starts in another folder."""
    parts = []
    for part in job.parts:
        path, uri = part.data.path, part.mlflow_uri
        data = dataclasses.replace(part.data, path=str(Path(path).absolute())) if path else part.data
        if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
            uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
        parts.append(dataclasses.replace(part, runs_dir=str(runs_dir), data=data, mlflow_uri=uri))
    return dataclasses.replace(job, parts=parts)


def _active(tasks: list[Task], queue: dict[str, JobInfo]) -> dict[str, list[tuple[str, Job]]]:
    """Folder name of a run -> [(SLURM job id, what it does)] of all that wait or run."""
    found: dict[str, list[tuple[str, Job]]] = {}
    for task in tasks:
        alive = [name for name in task.ids if name in queue and queue[name].active]
        if alive:
            found.setdefault(task.run.name, []).append((alive[-1], Job.load(task.job_file)))
    return found


def _plan(job: Job, options: SlurmOptions, queued: list[tuple[str, Job]]) -> tuple[Row, list[_Planned]]:
    """One job of the command: its row, and what is to be submitted for it."""
    request = request_of(job.config.resources, options)
    row = Row(job, request, "submitted")
    try:
        run = job.open()
        if not job.missing(run):
            row.state, row.text = "done", "trained and judged"
            return row, []
        holder = current_holder(run.folder)
        by = holder.claim.job if holder and holder.claim else None
        if holder is not None and holder.alive is not False and by not in [name for name, _ in queued]:
            row.state, row.text = "held", f"by {holder}"
            return row, []
        job.refuse_lost_budgets(run)
    except UserError as error:
        row.state, row.text = "failed", str(error)
        return row, []
    tasks: list[_Planned] = []
    if job.config.evaluation.where == "inline":
        tasks += _unless_queued(_Planned(row, run, job, request), job.missing(run), queued, ("all",))
    else:
        train = _Planned(row, run, dataclasses.replace(job, work="train"), request)
        tasks += _unless_queued(train, job.untrained(run), queued, ("all", "train"))
        judging = request_of(job.config.evaluation.resources, options, judging=True)
        judge = _Planned(row, run, dataclasses.replace(job, work="judge"), judging, follows=tasks[0] if tasks else None)
        judge.after = _last(queued, ("all", "train"))
        tasks += _unless_queued(judge, job.missing(run), queued, ("all", "judge"))
    if not tasks:
        row.state, row.text = "in the queue", f"as {', '.join(name for name, _ in queued)}"
        row.ids = [name for name, _ in queued]
    return row, tasks


def _unless_queued(
    task: _Planned, steps: list[int], queued: list[tuple[str, Job]], works: tuple[str, ...]
) -> list[_Planned]:
    """The task, waiting for a job that is on its way with less, or nothing where that will do all of it."""
    relevant = [(name, job) for name, job in queued if job.work in works]
    if not steps or (relevant and not _asked(task.job, steps) - set().union(*(_asked(job) for _, job in relevant))):
        return []
    task.after = task.after or _last(relevant, works)
    return [task]


def _asked(job: Job, steps: Sequence[int] | None = None) -> set[tuple[str, int]]:
    """(protocol, budget) that a job does; to train is to reach the budget, whatever the protocol."""
    found = set()
    for part in job.parts:
        name = "" if job.work == "train" else protocol_id(protocol_of(part))
        found |= {(name, step) for step in budgets(part.steps) if steps is None or step in steps}
        if job.work == "all":
            found |= {("", step) for step in budgets(part.steps)}
    return found


def _last(queued: list[tuple[str, Job]], works: tuple[str, ...]) -> str:
    return next((name for name, job in reversed(queued) if job.work in works), "")


def _write(
    launch: Path,
    planned: list[_Planned],
    options: SlurmOptions,
    code: Path,
    max_array_size: int,
    runs_dir: Path,
    command: Sequence[str],
) -> list[_Array]:
    """Freeze the jobs and write the launch's folder."""
    groups: dict[tuple[str, Request, str], list[_Planned]] = {}
    for task in planned:
        task.file = task.job.freeze(task.run)
        groups.setdefault((task.job.work, task.request, task.after), []).append(task)
    arrays: list[_Array] = []
    # Judges last: each waits for the id of its training.
    for (_, request, _), tasks in sorted(groups.items(), key=lambda group: group[0][0] == "judge"):
        for at in range(0, len(tasks), max_array_size):
            some = tasks[at : at + max_array_size]
            path = launch / f"{len(arrays)}.sh"
            files = [task.file for task in some if task.file]
            path.write_text(script(request, options, files, launch, code, options.name))
            arrays.append(_Array(path, some))
    described: list[dict[str, Any]] = [
        {
            "script": array.script.name,
            "work": array.tasks[0].job.work,
            "resources": dataclasses.asdict(array.tasks[0].request),
            "jobs": [str(task.file.relative_to(runs_dir)) for task in array.tasks if task.file],
        }
        for array in arrays
    ]
    write_launch(
        launch,
        described,
        command=list(command),
        revision=code_revision(),
        code=str(code),
        slurm_conf=str(Path(options.slurm_conf).absolute()) if options.slurm_conf else None,
        parallel=options.array_parallelism,
    )
    return arrays


def _submit(arrays: list[_Array], parallel: int, scheduler: Scheduler) -> None:
    """All arrays, or none: every script is tried before the first is submitted. Raises UserError."""
    for array in arrays:
        try:
            scheduler.submit(array.script, array="0", test=True)
        except Refused as error:
            raise Refused(f"SLURM refuses {array.tasks[0].job.name} ({array.tasks[0].request}): {error}") from None
    submitted: list[str] = []
    try:
        for array, indices, after in _calls(arrays):
            most = f"%{parallel}" if len(indices) > parallel else ""
            text = f"{indices[0]}-{indices[-1]}{most}" if len(indices) > 1 else str(indices[0])
            job = scheduler.submit(array.script, array=text, dependency=f"afterany:{after}" if after else "")
            submitted.append(job)
            for index in indices:
                task = array.tasks[index]
                task.id = f"{job}_{index}"
                task.row.ids.append(task.id)
    except UserError as error:
        scheduler.cancel(submitted)
        raise UserError(f"SLURM took only a part of the arrays, which is cancelled again: {error}") from None


def _calls(arrays: list[_Array]) -> Iterator[tuple[_Array, range, str]]:
    """(array, indices, job to wait for) of each sbatch.

    Lazily: what a judge waits for is known once its training is submitted. Judges go one by one, because each waits
    for its own training only.
    """
    for array in arrays:
        if any(task.follows for task in array.tasks):
            for index, task in enumerate(array.tasks):
                yield array, range(index, index + 1), task.follows.id if task.follows else task.after
        else:
            yield array, range(len(array.tasks)), array.tasks[0].after


def _take_back(launch: Path, planned: list[_Planned]) -> None:
    """Nothing was submitted: leave no trace of it."""
    shutil.rmtree(launch, ignore_errors=True)
    for task in planned:
        if task.file is not None:
            with contextlib.suppress(OSError):
                task.file.unlink()
