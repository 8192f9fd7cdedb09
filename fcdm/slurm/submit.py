"""`hydra/launcher=submitit_slurm`: submit and leave.

Every job is composed, checked and frozen before anything is submitted; what is done or on its way is left out; the
rest goes out as arrays, one for each set of resources. Nothing waits, so closing the laptop loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.atomic import locked
from fcdm.errors import Unsure, UserError
from fcdm.jobs.job import BENCHMARK, EVALUATE, Job
from fcdm.jobs.pin_weights import codes_needed
from fcdm.runs.revision import code_revision
from fcdm.runs.run_cost import saved_bytes
from fcdm.slurm.absolute_paths import from_anywhere
from fcdm.slurm.client import Refused, Scheduler, Schedulers, Slurm
from fcdm.slurm.code_snapshot import take_snapshot
from fcdm.slurm.executor import ArrayExecutor
from fcdm.slurm.job_credentials import credentials_of
from fcdm.slurm.ledger import (
    LAUNCHES,
    add_id,
    in_flight,
    new_launch,
    this_conf,
    write_launch,
)
from fcdm.slurm.left_to_submit import Planned, Row, follow_parents, is_done_already, left_of, refuse_passed
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.preflight import check_folder, hosts_of, try_requests
from fcdm.slurm.resources import Resources, request_of


@dataclass
class _Array:
    """Tasks that ask for the same and wait for the same: one batch script, one call of sbatch."""

    executor: ArrayExecutor
    tasks: list[Planned]


def check(jobs: list[Job], options: SlurmOptions, scheduler: Scheduler) -> None:
    """Refuse what the cluster cannot do, before anything is written. Raises UserError."""
    requests: dict[Resources, str] = {}
    for job in jobs:
        request = request_of(job.config.resources, options)
        if job.config.batch_size % request.processes:
            raise UserError(
                f"{job.name}: batch_size={job.config.batch_size} does not divide over {request.processes} processes: "
                "ask for other resources.gpus or another batch_size"
            )
        requests.setdefault(request, job.name)
        if job.config.evaluation.where == "job":
            requests.setdefault(request_of(job.config.evaluation.resources, options, evaluation=True), job.name)
    try_requests(requests, options, scheduler)
    if options.check_folder:
        check_folder(Path(jobs[0].config.runs_dir), hosts_of(requests, options, scheduler.cluster()))


def submit(
    jobs: list[Job],
    options: SlurmOptions,
    scheduler: Scheduler,
    command: Sequence[str],
    elsewhere: Schedulers = Slurm,
) -> list[Row]:
    """Submit what is neither done nor on its way; one row for each job, in the given order.

    All of it or, where SLURM refuses a part, nothing. `elsewhere`: other clusters, where a run may be in a queue.
    Raises UserError.
    """
    runs_dir = Path(jobs[0].config.runs_dir).absolute()
    jobs = [from_anywhere(job, runs_dir) for job in jobs]
    conf = this_conf(options.slurm_conf)
    # One launcher at a time: two of the same sweep would both find a run neither done nor queued.
    with locked(runs_dir / LAUNCHES / ".lock"):
        code = take_snapshot(runs_dir, [code for job in jobs for code in codes_needed(job.parts)])
        unfinished = {job.name for job in jobs if not is_done_already(job)}
        on_their_way = in_flight(runs_dir, unfinished, lambda name: scheduler if name == conf else elsewhere(name))
        refuse_passed(jobs, on_their_way)
        rows: list[Row] = []
        planned: list[Planned] = []
        for job in jobs:
            row, tasks = left_of(job, options, on_their_way.get(job.name, []), conf)
            rows.append(row)
            planned += tasks
        planned = follow_parents(planned, rows, on_their_way, conf)
        if planned:
            launch = new_launch(runs_dir)
            try:
                arrays = _write(launch, planned, options, code, scheduler, command)
            except (UserError, OSError):
                _take_back(launch, planned)
                raise
            _submit(launch, arrays, scheduler)
            for task in planned:
                with contextlib.suppress(OSError, UserError):  # the job does it too, when it starts
                    add_id(_file(task), task.id)
    return rows


def _write(
    launch: Path,
    planned: list[Planned],
    options: SlurmOptions,
    code: Path,
    scheduler: Scheduler,
    command: Sequence[str],
) -> list[_Array]:
    """Freeze the jobs and write the launch's folder."""
    groups: dict[tuple[str, bool, Resources, str], list[Planned]] = {}
    for task in planned:
        task.file = task.job.freeze()
        groups.setdefault((task.job.work, task.follows is not None, task.request, task.after), []).append(task)
    arrays: list[_Array] = []
    size = scheduler.cluster().max_array_size
    # What follows another waits for its id: branches come after trainings, and evaluations last.
    for (_, _, request, _), tasks in sorted(groups.items(), key=lambda group: (group[0][0] == EVALUATE, group[0][1])):
        for at in range(0, len(tasks), size):
            some = tasks[at : at + size]
            executor = ArrayExecutor(launch, len(arrays), request, options, scheduler, code)
            executor.write([_file(task) for task in some], max(_saved_bytes(task.job) for task in some))
            arrays.append(_Array(executor, some))
    described: list[dict[str, Any]] = [
        {
            "script": array.executor.script.name,
            "work": array.tasks[0].job.work,
            "resources": dataclasses.asdict(array.tasks[0].request),
            "jobs": [str(_file(task).relative_to(launch.parent.parent)) for task in array.tasks],
        }
        for array in arrays
    ]
    write_launch(
        launch,
        described,
        command=list(command),
        credentials=credentials_of([task.job for task in planned]),
        revision=code_revision(),
        code=str(code),
        slurm_conf=this_conf(options.slurm_conf),
        parallel=options.array_parallelism,
    )
    return arrays


def _saved_bytes(job: Job) -> int:
    """What a job has to write when it is told to save; one that evaluates, next to nothing.

    Twice, where training does not wait for its kept checkpoints: the last one may still be on its way then.
    """
    if job.work in (EVALUATE, BENCHMARK):
        return 0
    goes_on = job.work == "train" or any(part.config.keep_steps for part in job.parts)
    return (1 + goes_on) * saved_bytes(job.config)


def _file(task: Planned) -> Path:
    assert task.file is not None, "frozen before it is written"
    return task.file


def _submit(launch: Path, arrays: list[_Array], scheduler: Scheduler) -> None:
    """All arrays, or none. Raises UserError; Unsure where some may be in the queue."""
    planned = [task for array in arrays for task in array.tasks]
    try:
        for array, tasks, after in _calls(arrays):
            jobs = array.executor.submit_array([_file(task) for task in tasks], after=after)
            for task, job in zip(tasks, jobs, strict=True):
                task.id = job.job_id
                task.row.ids.append(job.job_id)
                task.row.jobs.append(job)
    except BaseException as error:
        _cancel(launch, planned, scheduler, error)
        if isinstance(error, UserError):
            some = any(task.id for task in planned)
            part = "only a part of the arrays, which is cancelled again" if some else "none of the arrays"
            raise UserError(f"SLURM took {part}: {error}") from None
        raise


def _cancel(launch: Path, planned: list[Planned], scheduler: Scheduler, broke: BaseException) -> None:
    """End what a broken-off submission got into the queue, and leave no trace of it.

    By the scripts' names too: an sbatch that was killed, or gave up waiting, may have submitted all the same.
    Raises Unsure where SLURM cannot be asked, or does not end one; then the files stay, for the jobs that are there.
    """
    known = {task.id.split("_")[0] for task in planned if task.id}
    try:
        found = {info.id.split("_")[0] for info in scheduler.queue().values() if info.script.startswith(f"{launch}/")}
        left = scheduler.cancel(sorted(known | found))
    except UserError as error:
        if not known and isinstance(broke, Refused) and broke.is_sure:
            left = {}  # it was the first, and SLURM said no
        else:
            taken = f"SLURM took job {' and '.join(sorted(known))}, and others" if known else "its jobs"
            raise Unsure(
                f"a submission broke off, and cannot be taken back: {error}; {taken} may be in the queue: python -m "
                "fcdm.status tells"
            ) from None
    if left:
        said = "; ".join(f"{job}: {why}" for job, why in left.items())
        raise Unsure(
            f"a submission broke off, and SLURM does not cancel what it has of it ({said}): scancel it; python -m "
            "fcdm.status tells what is in the queue"
        )
    _take_back(launch, planned)


def _calls(arrays: list[_Array]) -> Iterator[tuple[_Array, list[Planned], str]]:
    """(array, tasks, job to wait for) of each sbatch.

    Lazily: what an evaluation waits for is known once its training is submitted, and what a branch does once its parent
    is. They go one by one: each waits for its own only.
    """
    for array in arrays:
        if any(task.follows for task in array.tasks):
            for task in array.tasks:
                first = [task.follows.id] if task.follows else []
                yield array, [task], ":".join([*first, *filter(None, [task.after])])
        else:
            yield array, array.tasks, array.tasks[0].after


def _take_back(launch: Path, planned: list[Planned]) -> None:
    """Nothing was submitted: leave no trace of it."""
    shutil.rmtree(launch, ignore_errors=True)
    for task in planned:
        if task.file is not None:
            with contextlib.suppress(OSError):
                task.file.unlink()
