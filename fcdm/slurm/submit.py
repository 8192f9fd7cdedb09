"""`hydra/launcher=submitit_slurm`: submit and leave.

Every job is composed, checked and frozen before anything is submitted; what is done or on its way is left out; the
rest goes out as arrays, one for each set of resources. Nothing waits, so closing the laptop loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcdm.atomic import locked
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.jobs.job import BENCHMARK, EVALUATE, Job
from fcdm.jobs.pin_weights import models_of
from fcdm.runs.protocol import Part
from fcdm.runs.revision import code_revision
from fcdm.runs.run_cost import saved_bytes
from fcdm.slurm.client import Scheduler, Schedulers, Slurm
from fcdm.slurm.code_snapshot import take_snapshot
from fcdm.slurm.executor import ArrayExecutor, RunJob
from fcdm.slurm.job_credentials import credentials_of
from fcdm.slurm.ledger import (
    LAUNCHES,
    Queued,
    add_id,
    held_by_deleted,
    held_outside,
    in_flight,
    new_launch,
    this_conf,
    write_launch,
)
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.preflight import check_folder, hosts_of, try_requests
from fcdm.slurm.resources import Resources, request_of


@dataclass
class Row:
    """What became of one job of the command."""

    job: Job
    request: Resources
    state: str
    """`submitted`, `done`, `in the queue`, `held`, `failed`."""
    text: str = ""
    """Why it was left out."""
    ids: list[str] = field(default_factory=list)
    jobs: list[RunJob] = field(default_factory=list)
    """What was submitted, to use in Python."""


@dataclass
class _Planned:
    """One task to submit: a job with its work cut out."""

    row: Row
    job: Job
    request: Resources
    after: str = ""
    """Job ids that it waits for, as sbatch's afterany takes them."""
    follows: _Planned | None = None
    """The training that it evaluates, submitted by the same command."""
    file: Path | None = None
    id: str = ""


@dataclass
class _Array:
    """Tasks that ask for the same and wait for the same: one batch script, one call of sbatch."""

    executor: ArrayExecutor
    tasks: list[_Planned]


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
        if options.use_srun is False and request.processes > 1:
            raise UserError(
                f"hydra.launcher.use_srun=false starts one process, and {job.name} asks for {request.processes}: leave "
                "it away"
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
    jobs = [_from_anywhere(job, runs_dir) for job in jobs]
    conf = this_conf(options.slurm_conf)
    # One launcher at a time: two of the same sweep would both find a run neither done nor queued.
    with locked(runs_dir / LAUNCHES / ".lock"):
        code = take_snapshot(runs_dir, [model for job in jobs for model in models_of(job.parts)])
        unfinished = {job.name for job in jobs if not _is_done(job)}
        on_their_way = in_flight(runs_dir, unfinished, lambda name: scheduler if name == conf else elsewhere(name))
        _refuse_passed(jobs, on_their_way)
        rows: list[Row] = []
        planned: list[_Planned] = []
        for job in jobs:
            row, tasks = _plan(job, options, on_their_way.get(job.name, []), conf)
            rows.append(row)
            planned += tasks
        if planned:
            launch = new_launch(runs_dir)
            try:
                arrays = _write(launch, planned, options, code, scheduler, command)
            except (UserError, OSError):
                _take_back(launch, planned)
                raise
            _submit(launch, arrays, scheduler)
            for task in planned:
                assert task.file is not None
                with contextlib.suppress(OSError, UserError):  # the job does it too, when it starts
                    add_id(task.file, task.id)
    return rows


def _refuse_passed(jobs: list[Job], on_their_way: Mapping[str, list[Queued]]) -> None:
    """Raise UserError for a budget that a job in the queue will train past, without keeping a checkpoint there."""
    for job in jobs:
        trainings = [other for other in on_their_way.get(job.name, []) if other.job.work != EVALUATE]
        theirs = {step for other in trainings for step in other.job.budgets}
        try:
            passed = [step for step in job.untrained() if step not in theirs and step < max(theirs, default=0)]
        except UserError:  # a damaged evaluation: its row says so
            continue
        if passed:
            ids = ", ".join(other.id for other in trainings)
            raise UserError(
                f"{job.name}: steps={passed[0]} could not be evaluated: job {ids} trains the run to {max(theirs)} "
                f"and keeps no checkpoint of step {passed[0]}; cancel it first (python -m fcdm.status --cancel), "
                "and ask for all its steps in one command. Nothing is submitted"
            )


def _from_anywhere(job: Job, runs_dir: Path) -> Job:
    """The job with absolute paths: it starts in another folder."""
    parts = tuple(Part(_absolute(part.config, runs_dir)) for part in job.parts)
    folder = runs_dir / job.folder.relative_to(job.config.runs_dir)
    return dataclasses.replace(job, folder=folder, parts=parts)


def _absolute(config: Config, runs_dir: Path) -> Config:
    path, uri = config.data.path, config.mlflow_uri
    data = dataclasses.replace(config.data, path=str(Path(path).absolute())) if path else config.data
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    reference, decoder = config.evaluation.reference, config.evaluation.decoder
    evaluated = dataclasses.replace(
        config.evaluation,
        reference=str(Path(reference).absolute()) if reference else None,
        decoder=str(Path(decoder).absolute()) if decoder and Path(decoder).exists() else decoder,
    )
    return dataclasses.replace(config, runs_dir=str(runs_dir), data=data, evaluation=evaluated, mlflow_uri=uri)


def _is_done(job: Job) -> bool:
    """Whether nothing is left, as far as that can be told without making anything."""
    try:
        return not job.missing()
    except UserError:
        return False


def _plan(job: Job, options: SlurmOptions, queued: list[Queued], conf: str | None) -> tuple[Row, list[_Planned]]:
    """One job of the command: its row, and what is to be submitted for it."""
    request = request_of(job.config.resources, options)
    row = Row(job, request, "submitted")
    if text := held_by_deleted(queued):
        row.state, row.text = "held", text
        return row, []
    try:
        job.open()
        if not job.missing():
            row.state, row.text = "done", "trained and evaluated"
            return row, []
        if holder := held_outside(job.folder, [other.id for other in queued]):
            row.state, row.text = "held", f"by {holder}"
            return row, []
        job.refuse_lost_budgets()
    except UserError as error:
        row.state, row.text = "failed", str(error)
        return row, []
    if job.config.evaluation.where == "inline":
        tasks = _inline(row, request, queued)
    else:
        tasks = _apart(row, request, options, queued)
    names = [other.id for other in queued]
    abroad = [other.id for other in queued if other.conf != conf]
    if tasks and abroad:  # SLURM cannot wait for a job of another cluster
        row.state, row.text = "held", f"by {', '.join(abroad)} in the queue of another cluster, which does a part of it"
        return row, []
    if not tasks:
        row.state, row.text, row.ids = "in the queue", f"as {', '.join(names)}", names
    return row, tasks


def _inline(row: Row, request: Resources, queued: list[Queued]) -> list[_Planned]:
    """Training and evaluation in one job, after whatever of the run is in the queue with less."""
    job = row.job
    if not _asked(job, job.missing()) - _asked_of(queued, ("all",)):
        return []
    return [_Planned(row, job, request, after=_after(queued))]


def _apart(row: Row, request: Resources, options: SlurmOptions, queued: list[Queued]) -> list[_Planned]:
    """Training, and an evaluation that follows it."""
    job = row.job
    train, evaluator = (dataclasses.replace(job, work=work) for work in ("train", EVALUATE))
    evaluation = request_of(job.config.evaluation.resources, options, evaluation=True)
    trainings = [other for other in queued if other.job.work != EVALUATE]
    untrained = _asked(train, job.untrained())
    tasks = []
    if untrained - _asked_of(trainings, ("all", "train")):
        tasks.append(_Planned(row, train, request, after=_after(trainings)))
        return [*tasks, _Planned(row, evaluator, evaluation, follows=tasks[0])]
    # An evaluation that is older than the last training in the queue may have come and gone when that ends.
    last = max((at for at, other in enumerate(queued) if other.job.work == "train"), default=-1)
    trusted = [other for other in queued[last + 1 :] if other.job.work == EVALUATE]
    trusted += [other for other in queued if other.job.work == "all"]
    if _asked(evaluator, job.missing()) - _asked_of(trusted, ("all", EVALUATE)):
        tasks.append(_Planned(row, evaluator, evaluation, after=_after(queued)))
    return tasks


def _after(queued: list[Queued]) -> str:
    """What to wait for, as sbatch's afterany takes it."""
    return ":".join(other.id for other in queued)


def _asked_of(queued: list[Queued], works: tuple[str, ...]) -> set[tuple[str, int]]:
    return set().union(*(_asked(other.job) for other in queued if other.job.work in works))


def _asked(job: Job, steps: Sequence[int] | None = None) -> set[tuple[str, int]]:
    """(protocol, budget) that a job does; to train is to reach the budget, whatever the protocol."""
    found = set()
    for part in job.parts:
        names = [""] if job.work != EVALUATE else []
        names += [part.protocol_id] if job.work != "train" else []
        found |= {(name, step) for name in names for step in part.budgets if steps is None or step in steps}
    return found


def _write(
    launch: Path,
    planned: list[_Planned],
    options: SlurmOptions,
    code: Path,
    scheduler: Scheduler,
    command: Sequence[str],
) -> list[_Array]:
    """Freeze the jobs and write the launch's folder."""
    groups: dict[tuple[str, Resources, str], list[_Planned]] = {}
    for task in planned:
        task.file = task.job.freeze()
        groups.setdefault((task.job.work, task.request, task.after), []).append(task)
    arrays: list[_Array] = []
    size = scheduler.cluster().max_array_size
    # Evaluations last: each waits for the id of its training.
    for (_, request, _), tasks in sorted(groups.items(), key=lambda group: group[0][0] == EVALUATE):
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


def _file(task: _Planned) -> Path:
    assert task.file is not None, "frozen before it is written"
    return task.file


def _submit(launch: Path, arrays: list[_Array], scheduler: Scheduler) -> None:
    """All arrays, or none. Raises UserError."""
    planned = [task for array in arrays for task in array.tasks]
    try:
        for array, tasks, after in _calls(arrays):
            jobs = array.executor.submit_array([_file(task) for task in tasks], after=after)
            for task, job in zip(tasks, jobs, strict=True):
                task.id = job.job_id
                task.row.ids.append(job.job_id)
                task.row.jobs.append(job)
    except BaseException as error:
        _cancel(launch, planned, scheduler)
        if isinstance(error, UserError):
            some = any(task.id for task in planned)
            part = "only a part of the arrays, which is cancelled again" if some else "none of the arrays"
            raise UserError(f"SLURM took {part}: {error}") from None
        raise


def _cancel(launch: Path, planned: list[_Planned], scheduler: Scheduler) -> None:
    """End what a broken-off submission got into the queue, and leave no trace of it.

    By the scripts' names too: an sbatch that was killed, or gave up waiting, may have submitted all the same.
    Raises UserError where SLURM cannot be asked; then the files stay, for the jobs that may be there.
    """
    known = {task.id.split("_")[0] for task in planned if task.id}
    found = {info.id.split("_")[0] for info in scheduler.queue().values() if info.script.startswith(f"{launch}/")}
    scheduler.cancel(sorted(known | found))
    _take_back(launch, planned)


def _calls(arrays: list[_Array]) -> Iterator[tuple[_Array, list[_Planned], str]]:
    """(array, tasks, job to wait for) of each sbatch.

    Lazily: what an evaluation waits for is known once its training is submitted. Evaluations go one by one: each waits
    for its own training only.
    """
    for array in arrays:
        if any(task.follows for task in array.tasks):
            for task in array.tasks:
                yield array, [task], task.follows.id if task.follows else task.after
        else:
            yield array, array.tasks, array.tasks[0].after


def _take_back(launch: Path, planned: list[_Planned]) -> None:
    """Nothing was submitted: leave no trace of it."""
    shutil.rmtree(launch, ignore_errors=True)
    for task in planned:
        if task.file is not None:
            with contextlib.suppress(OSError):
                task.file.unlink()
